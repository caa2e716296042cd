-- Streaming view: what a user did lately. The entity is PARTITION BY, the time is ORDER BY.
-- A plain RANGE keeps every event of the window. hop(event_time, size, step) is exact at the head and lets the tail
-- move in steps, so the stream keeps one partial aggregate per step: the longer the window, the more that saves.
SELECT user_id,
       count(*) FILTER (WHERE action IN ('impression', 'browse')) OVER last_hour AS views_1h,
       count(*) FILTER (WHERE action = 'click')                   OVER last_hour AS clicks_1h,
       count(*) FILTER (WHERE action IN ('impression', 'browse')) OVER last_day  AS views_1d,
       count(*) FILTER (WHERE action = 'click')                   OVER last_day  AS clicks_1d,
       count(*)                                                   OVER last_week AS events_7d,
       count(*) FILTER (WHERE action IN ('impression', 'browse')) OVER last_week AS views_7d,
       count(*) FILTER (WHERE action = 'click')                   OVER last_week AS clicks_7d,
       count(*) FILTER (WHERE action IN ('cart', 'follow'))       OVER last_week AS carts_7d,
       count(*) FILTER (WHERE action = 'order')                   OVER last_week AS orders_7d,
       sum(price) FILTER (WHERE action = 'order')                 OVER last_week AS spend_7d,
       avg(price) FILTER (WHERE action = 'click')                 OVER last_week AS avg_clicked_price_7d,
       max(price) FILTER (WHERE action = 'click')                 OVER last_week AS max_clicked_price_7d
FROM behaviour
WINDOW last_hour AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       last_day  AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       last_week AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN hop(event_time, INTERVAL 7 DAY, INTERVAL 6 HOUR) PRECEDING AND CURRENT ROW);
