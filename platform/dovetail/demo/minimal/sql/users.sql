-- A streaming view: what a user did lately, kept as events come. PARTITION BY is its key, ORDER BY its time.
SELECT user_id,
       count(*) OVER last_day      AS clicks_1d,
       last(item_id) OVER last_day AS last_item
FROM events
WINDOW last_day AS (PARTITION BY user_id ORDER BY event_time
                    RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW);
