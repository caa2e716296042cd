-- What a user did lately: a plain window, which keeps its events, and one whose tail moves in steps.
SELECT user_id,
       count(*) FILTER (WHERE action = 'click') OVER last_hour AS clicks_1h,
       count(*)                                 OVER last_day  AS events_1d,
       sum(price)                               OVER last_day  AS spend_1d,
       last(action)                             OVER last_day  AS last_action
FROM behaviour
WINDOW last_hour AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       last_day  AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW);
