-- What happened to an item lately, whoever did it: the stream is keyed by user, so its events are re-keyed.
SELECT item_id,
       count(*) FILTER (WHERE action = 'impression') OVER last_day AS views_1d,
       count(*) FILTER (WHERE action = 'click')      OVER last_day AS clicks_1d,
       avg(price)                                    OVER last_day AS avg_price_1d,
       last(user_id)                                 OVER last_day AS last_user,
       avg(user_events_1h)                           OVER last_day AS activity_1d,
       count(*) FILTER (WHERE user_last_before = 'click') OVER last_day AS after_click_1d
FROM behaviour_by_item
WINDOW last_day AS (PARTITION BY item_id ORDER BY event_time
                    RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW);
