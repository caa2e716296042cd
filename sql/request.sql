-- One ranking call. `candidates` is what there is to rank; in a feature set each candidate is a row of its own, so
-- sql/ranking.sql reads item_id, position and affinity like columns.
CREATE TABLE request (
    request_id   VARCHAR   NOT NULL,
    user_id      VARCHAR   NOT NULL,
    request_time TIMESTAMP NOT NULL,
    segment      VARCHAR,                                -- the kind of user, as the caller knows it
    channel      VARCHAR,                                -- where the list is shown, or which policy asks
    candidates   STRUCT(
        item_id  BIGINT,
        position INTEGER,                                -- 1 is the top; NULL when the caller gives no order
        affinity DOUBLE                                  -- the caller's own estimate that user and item fit
    )[] NOT NULL
);
