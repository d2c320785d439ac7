-- Insertions, changes and deletions in tables of every kind.
INSERT INTO country SELECT i, 'Neuland ' || i, NULL, 'NaN', NULL FROM generate_series(121, 130) i;
UPDATE city SET founded = 'infinity', name = upper(name::text)::citext WHERE id % 10 = 0;
DELETE FROM city WHERE id % 10 = 3;
UPDATE member SET joined = joined + interval '1 microsecond', newsletter = NULL WHERE id % 2 = 0;
DELETE FROM ONLY party WHERE id < 100;
UPDATE branch SET balance = balance + '0.01'::money, opening = 'empty' WHERE id < 30;
UPDATE title SET tags = tags || 'more'::text, facts = facts || 'new=>"1"', details = details || '{"z": [1.50]}' WHERE id % 3 = 0 AND jsonb_typeof(details) = 'object' AND array_ndims(tags) = 1;
UPDATE title SET stars = 'Infinity', price = NULL, words = NULL WHERE id % 7 = 0;
DELETE FROM title_performer WHERE performer_id % 5 = 0;
-- Rows that move to another partition.
UPDATE lending SET region = 'north' WHERE id % 6 = 1;
UPDATE lending SET lent = lent + interval '1 year' WHERE id % 11 = 0;
DELETE FROM lending WHERE id % 13 = 0;
INSERT INTO lending SELECT i, timestamptz '2025-01-01 00:00+00' + i * interval '1 microsecond', 'east', NULL, NULL, NULL FROM generate_series(20001, 21000) i;
-- A partition that is new, and one that is gone.
CREATE TABLE payment_gift PARTITION OF payment FOR VALUES IN ('gift');
INSERT INTO payment SELECT i, 'gift', -i, date '2024-05-05' FROM generate_series(9001, 9500) i;
ALTER TABLE payment_card DETACH PARTITION payment_card_old;
DROP TABLE payment_card_old;
UPDATE reading SET exact = exact * 1.10, fixed = 'NaN', double = -double WHERE id % 2 = 1 AND id <= 1000;
UPDATE era SET day = '-infinity', span = span * -1 WHERE id % 4 = 1 AND id <= 1200;
UPDATE tariff SET years = 'empty', several = '{}' WHERE id % 2 = 0;
UPDATE lists SET numbers = NULL, texts = '{}', homes = ARRAY[NULL]::street[] WHERE id % 3 = 0;
DELETE FROM note WHERE length(body) > 500000;
UPDATE blob SET part = '' WHERE id % 2 = 0;
INSERT INTO ledger (due) SELECT i FROM generate_series(1, 100) i;
INSERT INTO nothing SELECT i, 'now' FROM generate_series(1, 50) i;
DELETE FROM audit.entry WHERE ctid IN (SELECT ctid FROM audit.entry ORDER BY at, who LIMIT 500);
TRUNCATE audit.dropped;
UPDATE "Back Office"."Order Lines" SET "größe" = -1, "dotted.name" = NULL WHERE "Line Id" % 2 = 0;
INSERT INTO "Back Office"."größen" VALUES (301, 999.9), (302, NULL);
REFRESH MATERIALIZED VIEW popular;
