-- The feature set: one row per candidate of a request, with views joined on their keys, as of request_time.
SELECT request_id,
       item_id,
       hour(request_time)             AS hour_of_day,
       users.clicks_1d                AS user_clicks_1d,
       items.clicks_1d                AS item_clicks_1d,
       users.last_item = item_id      AS clicked_last
FROM request
LEFT JOIN users USING (user_id)
LEFT JOIN items USING (item_id);
