-- What is known about items, offline. An item may have many rows, one per version of what was known; at most one row
-- per item and available_at.
CREATE TABLE item (
    item_id      BIGINT    NOT NULL,
    available_at TIMESTAMP NOT NULL,   -- when this row became known; a past run never sees a later one
    category     VARCHAR,
    brand        VARCHAR,
    score        DOUBLE                -- an editorial or statistical quality; higher is better
);
