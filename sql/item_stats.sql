-- Streaming view: what happened to an item lately, whoever did it. Same stream as user_activity, another entity.
SELECT item_id,
       count(*) FILTER (WHERE action IN ('impression', 'browse')) OVER last_hour AS views_1h,
       count(*) FILTER (WHERE action = 'click')                   OVER last_hour AS clicks_1h,
       count(*) FILTER (WHERE action IN ('impression', 'browse')) OVER last_day  AS views_1d,
       count(*) FILTER (WHERE action = 'click')                   OVER last_day  AS clicks_1d,
       count(*) FILTER (WHERE action IN ('impression', 'browse')) OVER last_week AS views_7d,
       count(*) FILTER (WHERE action = 'click')                   OVER last_week AS clicks_7d,
       count(*) FILTER (WHERE action IN ('cart', 'follow'))       OVER last_week AS carts_7d,
       count(*) FILTER (WHERE action = 'order')                   OVER last_week AS orders_7d,
       avg(price)                                                 OVER last_day  AS avg_price_1d,
       min(price)                                                 OVER last_week AS min_price_7d
FROM behaviour
WINDOW last_hour AS (PARTITION BY item_id ORDER BY event_time
                     RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       last_day  AS (PARTITION BY item_id ORDER BY event_time
                     RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       last_week AS (PARTITION BY item_id ORDER BY event_time
                     RANGE BETWEEN hop(event_time, INTERVAL 7 DAY, INTERVAL 6 HOUR) PRECEDING AND CURRENT ROW);
