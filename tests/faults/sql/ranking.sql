-- The feature set: request, streaming and batch columns, and an expression over two of them.
SELECT request_id, item_id,
       hour(request_time)                                       AS hour_of_day,
       segment,
       position,
       user_activity.clicks_1h                                  AS user_clicks_1h,
       user_activity.events_1d                                  AS user_events_1d,
       user_activity.spend_1d                                   AS user_spend_1d,
       user_activity.last_action                                AS user_last_action,
       item_stats.clicks_1d / nullif(item_stats.views_1d, 0)    AS item_ctr_1d,
       item_stats.avg_price_1d                                  AS item_price,
       item_stats.last_user                                     AS item_last_user,
       item_stats.activity_1d                                   AS item_activity,
       item_stats.after_click_1d                                AS item_after_click,
       item_profile.category,
       item_profile.score                                       AS item_score
FROM request
LEFT JOIN user_activity USING (user_id)
LEFT JOIN item_stats    USING (item_id)
LEFT JOIN item_profile  USING (item_id);
