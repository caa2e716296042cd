-- Batch view: the newest known attributes of every item, recomputed on the schedule in dovetail.toml.
-- arg_max skips rows whose first argument is NULL, so an attribute keeps its last known value;
-- of two values known from the same moment it takes the greater, so that no order of rows in a file matters.
SELECT item_id,
       arg_max(category, {'at': available_at, 'value': category}) AS category,
       arg_max(brand, {'at': available_at, 'value': brand})       AS brand,
       arg_max(score, {'at': available_at, 'value': score})       AS score
FROM item
GROUP BY item_id;
