-- What a user has done when an event of theirs comes: a column of the re-keyed stream, so two levels.
SELECT user_id,
       count(*)     OVER last_hour AS user_events_1h,
       last(action) OVER before    AS user_last_before
FROM behaviour
WINDOW last_hour AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       before    AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW EXCLUDE GROUP);
