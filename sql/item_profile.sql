-- Batch view: the newest known attributes of every item, recomputed on the schedule in dovetail.toml.
-- arg_max skips rows whose first argument is NULL, so an attribute keeps its last known value.
SELECT item_id,
       arg_max(category, available_at) AS category,
       arg_max(brand, available_at)    AS brand,
       arg_max(score, available_at)    AS score
FROM item
GROUP BY item_id;
