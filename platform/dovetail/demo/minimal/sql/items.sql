-- Another view of the same stream, by item. hop(…) lets the old end of the window move in steps of an hour, so that
-- one sum per hour is kept instead of every event.
SELECT item_id,
       count(*) OVER last_day AS clicks_1d
FROM events
WINDOW last_day AS (PARTITION BY item_id ORDER BY event_time
                    RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW);
