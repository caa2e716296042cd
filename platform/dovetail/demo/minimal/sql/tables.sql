-- What comes in. Times are UTC. More columns may be added; those of a row that are not declared are left out.

-- The stream: one row per event. Here all events are clicks.
CREATE TABLE events (
    user_id    VARCHAR   NOT NULL,
    item_id    VARCHAR   NOT NULL,
    event_time TIMESTAMP NOT NULL
);

-- A ranking request with its candidates.
CREATE TABLE request (
    request_id   VARCHAR   NOT NULL,
    user_id      VARCHAR,
    request_time TIMESTAMP NOT NULL,
    candidates   STRUCT(item_id VARCHAR)[] NOT NULL
);

-- Feedback, by request and item: what was shown, and what of it was clicked.
CREATE TABLE exposure (
    request_id VARCHAR   NOT NULL,
    item_id    VARCHAR   NOT NULL,
    event_time TIMESTAMP NOT NULL
);

CREATE TABLE click (
    request_id VARCHAR   NOT NULL,
    item_id    VARCHAR   NOT NULL,
    event_time TIMESTAMP NOT NULL
);
