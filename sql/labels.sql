-- What came back for a candidate that was shown. Which of the three makes an example, and which makes it positive, is
-- said in dovetail.toml: [labels] exposure and positive.
CREATE TABLE exposure (
    request_id VARCHAR   NOT NULL,
    item_id    BIGINT    NOT NULL,
    event_time TIMESTAMP NOT NULL
);

CREATE TABLE click (
    request_id VARCHAR   NOT NULL,
    item_id    BIGINT    NOT NULL,
    event_time TIMESTAMP NOT NULL
);

CREATE TABLE conversion (
    request_id VARCHAR   NOT NULL,
    item_id    BIGINT    NOT NULL,
    event_time TIMESTAMP NOT NULL
);
