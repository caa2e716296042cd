-- What users did: one row per event. The stream `behaviour` in dovetail.toml has this schema.
CREATE TABLE behaviour (
    user_id    VARCHAR   NOT NULL,
    item_id    BIGINT    NOT NULL,
    event_time TIMESTAMP NOT NULL,   -- UTC, as every TIMESTAMP here
    action     VARCHAR   NOT NULL,   -- impression, browse, click, cart, uncart, follow, order
    price      DECIMAL(12, 2)        -- DECIMAL, not DOUBLE: sums are exact, so stream and batch agree to the bit
);
