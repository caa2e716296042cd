-- Feature set: the columns of the model `ranking`, one row per request and candidate. Columns of the request stand
-- bare, columns of a view are qualified. An expression reads streaming views or batch views, not both: the first are
-- recorded in the snapshot as served, the second are looked up again, as of request_time, when the sample is built.
SELECT request_id, item_id,

       -- the request
       hour(request_time)                                                           AS hour_of_day,
       dayofweek(request_time)                                                      AS day_of_week,
       segment,
       channel,
       position,
       CASE WHEN position IS NULL THEN 'unknown'
            WHEN position <= 3 THEN 'top'
            WHEN position <= 10 THEN 'page'
            ELSE 'below' END                                                        AS position_band,
       affinity,

       -- the user, up to the request
       user_activity.clicks_1h                                                      AS user_clicks_1h,
       ln(1 + user_activity.views_1d)                                               AS user_views_log_1d,
       ln(1 + user_activity.events_7d)                                              AS user_events_log_7d,
       user_activity.clicks_7d / nullif(user_activity.views_7d, 0)                  AS user_ctr_7d,
       user_activity.carts_7d                                                       AS user_carts_7d,
       user_activity.orders_7d                                                      AS user_orders_7d,
       ln(1 + coalesce(CAST(user_activity.spend_7d AS DOUBLE), 0))                  AS user_spend_log_7d,
       CASE WHEN user_activity.events_7d = 0 THEN 'new'
            WHEN user_activity.clicks_1h > 0 THEN 'clicking'
            WHEN user_activity.views_1h > 0 THEN 'looking'
            ELSE 'back' END                                                         AS user_state,

       -- the item, up to the request
       ln(1 + item_stats.views_1h)                                                  AS item_views_log_1h,
       ln(1 + item_stats.clicks_1d)                                                 AS item_clicks_log_1d,
       item_stats.clicks_1d / nullif(item_stats.views_1d, 0)                        AS item_ctr_1d,
       (item_stats.clicks_7d + 1) / (item_stats.views_7d + 15)                      AS item_ctr_smooth_7d,
       item_stats.carts_7d / nullif(item_stats.clicks_7d, 0)                        AS item_cart_rate_7d,
       item_stats.orders_7d / nullif(item_stats.clicks_7d, 0)                       AS item_order_rate_7d,
       item_stats.avg_price_1d                                                      AS item_price,
       item_stats.avg_price_1d / nullif(CAST(item_stats.min_price_7d AS DOUBLE), 0) AS price_to_lowest,

       -- the two together
       item_stats.avg_price_1d / nullif(user_activity.avg_clicked_price_7d, 0)      AS price_to_usual,
       CASE WHEN item_stats.avg_price_1d IS NULL THEN 'unpriced'
            WHEN user_activity.max_clicked_price_7d IS NULL THEN 'unknown'
            WHEN item_stats.avg_price_1d > CAST(user_activity.max_clicked_price_7d AS DOUBLE) THEN 'dearer'
            ELSE 'usual' END                                                        AS price_band,
       coalesce(affinity, 0) * item_stats.clicks_7d / (item_stats.views_7d + 15)    AS affinity_times_ctr,

       -- what is known of the item offline
       item_profile.category,
       item_profile.brand,
       item_profile.score                                                           AS item_score,
       segment || '|' || item_profile.category                                      AS segment_category
FROM request
LEFT JOIN user_activity USING (user_id)
LEFT JOIN item_stats    USING (item_id)
LEFT JOIN item_profile  USING (item_id);
