-- A house that lends films: made up for tests, with every kind of table, column and name that a database may have.
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE SCHEMA audit;
CREATE SCHEMA "Back Office";

CREATE TYPE rating AS ENUM ('everyone', 'older than 12', 'adult', 'für alle');
CREATE TYPE street AS (line text, number int);
CREATE TYPE address AS (home street, code varchar(10), since date, phones text[]);
CREATE DOMAIN release_year AS int CHECK (VALUE BETWEEN 1850 AND 2200);
CREATE DOMAIN fee AS numeric(8,2) CHECK (VALUE >= 0);
CREATE DOMAIN late_fee AS fee;
CREATE DOMAIN word_list AS text[];
CREATE TYPE score_range AS RANGE (subtype = float8);

CREATE TABLE country (id smallint PRIMARY KEY, name text NOT NULL, code char(3), area numeric, inhabitants bigint);
INSERT INTO country SELECT i, 'Land ' || i, chr(65 + i % 26) || 'X', i * 1234.50, i * 10000000000 FROM generate_series(1, 120) i;

CREATE TABLE city (id int PRIMARY KEY, country_id smallint REFERENCES country, name citext, spot point, founded date);
INSERT INTO city SELECT i, 1 + i % 120, 'Stadt Ä' || i, point(i * 0.5, -i), date '0001-01-01' + i * 700 FROM generate_series(1, 1000) i;
INSERT INTO city VALUES (2001, 1, 'Vor der Zeit', NULL, '0753-04-21 BC'), (2002, 1, 'Nie', NULL, 'infinity'), (2003, NULL, NULL, NULL, NULL),
  (2004, 1, 'Spät', NULL, '12345-06-07'), (2005, 1, 'Zuletzt', NULL, '9999-12-31');

CREATE TABLE party (id bigint NOT NULL, name text, contact address);
CREATE TABLE member (joined timestamptz, newsletter boolean) INHERITS (party);
INSERT INTO party SELECT i, 'Partei ' || i, ROW(ROW('Gasse ' || i, i)::street, 'C' || i, date '2000-01-01' + i, ARRAY['+43 ' || i, NULL])::address FROM generate_series(1, 500) i;
INSERT INTO party VALUES (501, NULL, NULL), (502, 'nulls', ROW(NULL, NULL, NULL, NULL)::address), (503, 'quotes', ROW(ROW('a "b", \c', NULL)::street, '', NULL, '{}')::address),
  (504, 'forever', ROW(NULL, 'x', 'infinity', NULL)::address);
INSERT INTO member SELECT 1000 + i, 'Mitglied ' || i, NULL, timestamptz '2020-01-01 00:00:00.000001+00' + i * interval '1 hour 1 microsecond', i % 3 = 0 FROM generate_series(1, 2000) i;

CREATE TABLE branch (id int PRIMARY KEY, opened timestamp(3), balance money, network cidr, gateway inet, hardware macaddr, longer macaddr8, opening tstzrange);
INSERT INTO branch SELECT i, timestamp '1999-12-31 23:59:59.999' + i * interval '1 day', (i * -17.31)::numeric::money, ('10.' || i || '.0.0/16')::cidr,
  ('2001:db8::' || i || '/64')::inet, ('08:00:2b:01:02:' || lpad(to_hex(i), 2, '0'))::macaddr, '08:00:2b:01:02:03:04:05',
  tstzrange(timestamptz '2020-01-01 00:00+00' + i * interval '1 day', CASE WHEN i % 2 = 0 THEN timestamptz '2030-01-01 00:00+00' END) FROM generate_series(1, 60) i;
INSERT INTO branch VALUES (61, NULL, '-92233720368547758.08', '::/0', '192.168.1.1', NULL, NULL, 'empty'), (62, 'infinity', '92233720368547758.07', NULL, '::ffff:1.2.3.4', NULL, NULL, '[2020-01-01 00:00+00,infinity)');

CREATE TABLE genre (id smallint PRIMARY KEY, parent smallint REFERENCES genre, name varchar(30) UNIQUE);
INSERT INTO genre SELECT i, NULLIF(i / 4, 0), 'genre ' || i FROM generate_series(1, 50) i;

CREATE TABLE title (id int PRIMARY KEY, name text NOT NULL, year release_year, audience rating, tags text[], words tsvector, facts hstore, price fee, stars real, details jsonb, raw json);
INSERT INTO title SELECT i, 'Film № ' || i, 1900 + i % 150, (enum_range(NULL::rating))[1 + i % 4], ARRAY['tag ' || i % 7, NULL, '', 'with, comma', 'with "quote"'],
  to_tsvector('english', 'the running film number ' || i || ' about cats and dogs'), hstore(ARRAY['format', 'a' || i % 3, 'note'], ARRAY['dvd', NULL, 'ü "x"']), (i % 500) + 0.99,
  (i % 50) / 10.0, jsonb_build_object('n', i * 1000000007::bigint, 'big', 12345678901234567890.123, 'list', jsonb_build_array(1, NULL, 'é')), '{"a":  1, "a": 2.0}' FROM generate_series(1, 3000) i;
INSERT INTO title VALUES (3001, '', NULL, NULL, '{}', '', '', NULL, 'NaN', 'null', 'null'), (3002, 'infinite', NULL, NULL, '{{a,b},{c,NULL}}', NULL, NULL, 0, '-Infinity', '"text"', '[]'),
  (3003, E'tab \t newline \n end', 2199, 'für alle', NULL, '''a b'':1A,5 c:2', '"k"=>NULL', 999999.99, '1e-45', '{}', ' { } ');
CREATE INDEX ON title USING gin (words);

CREATE TABLE performer (id bigserial PRIMARY KEY, names word_list, key uuid UNIQUE, height double precision);
INSERT INTO performer (names, key, height) SELECT ARRAY['Vor' || i, 'Nach' || i], ('00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 1.5 + i / 3000.0 FROM generate_series(1, 1500) i;
CREATE TABLE title_performer (title_id int REFERENCES title, performer_id bigint REFERENCES performer, part text, PRIMARY KEY (title_id, performer_id));
INSERT INTO title_performer SELECT i, 1 + (i * 7 + k) % 1500, CASE WHEN k > 0 THEN 'part ' || k END FROM generate_series(1, 2500) i, generate_series(0, 2) k;
CREATE TABLE title_genre (title_id int, genre_id smallint, PRIMARY KEY (genre_id, title_id));
INSERT INTO title_genre SELECT i, 1 + i % 50 FROM generate_series(1, 3000) i;
CREATE TABLE copy (id bigint PRIMARY KEY, title_id int NOT NULL, branch_id int, bought date, state "char", flags bit(4), marks bit varying);
INSERT INTO copy SELECT i, 1 + i % 3000, 1 + i % 60, date '2010-01-01' + i % 3000, chr(97 + i % 26)::"char", (i % 16)::bit(4), (i % 9)::bit(5)::varbit FROM generate_series(1, 6000) i;

-- By range, and each range by list.
CREATE TABLE lending (id bigint NOT NULL, lent timestamptz NOT NULL, region text NOT NULL, copy_id bigint, back timestamptz, cost numeric(6,2), PRIMARY KEY (id, lent, region)) PARTITION BY RANGE (lent);
CREATE TABLE lending_2023 PARTITION OF lending FOR VALUES FROM ('2023-01-01 00:00+00') TO ('2024-01-01 00:00+00') PARTITION BY LIST (region);
CREATE TABLE lending_2023_north PARTITION OF lending_2023 FOR VALUES IN ('north');
CREATE TABLE lending_2023_rest PARTITION OF lending_2023 DEFAULT;
CREATE TABLE lending_2024 PARTITION OF lending FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2025-01-01 00:00+00') PARTITION BY LIST (region);
CREATE TABLE lending_2024_north PARTITION OF lending_2024 FOR VALUES IN ('north');
CREATE TABLE lending_2024_rest PARTITION OF lending_2024 DEFAULT;
CREATE TABLE lending_other PARTITION OF lending DEFAULT;
INSERT INTO lending SELECT i, timestamptz '2022-12-01 00:00+00' + i * interval '97 minutes', (ARRAY['north', 'south', 'west'])[1 + i % 3], i % 6000, CASE WHEN i % 4 > 0 THEN timestamptz '2024-01-01 00:00+00' + i * interval '1 microsecond' END,
  CASE i % 500 WHEN 0 THEN 'NaN' ELSE (i % 9000) / 100.0 END FROM generate_series(1, 12000) i;

-- By list, and one of the lists by range with a column order of its own.
CREATE TABLE payment (id bigint NOT NULL, method text NOT NULL, amount numeric(12,3), paid date NOT NULL) PARTITION BY LIST (method);
CREATE TABLE payment_card PARTITION OF payment FOR VALUES IN ('card') PARTITION BY RANGE (paid);
CREATE TABLE payment_card_old PARTITION OF payment_card FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE payment_card_new (paid date NOT NULL, id bigint NOT NULL, gone int, amount numeric(12,3), method text NOT NULL);
ALTER TABLE payment_card_new DROP COLUMN gone;
ALTER TABLE payment_card ATTACH PARTITION payment_card_new FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
CREATE TABLE payment_other PARTITION OF payment DEFAULT;
INSERT INTO payment SELECT i, (ARRAY['card', 'cash', 'voucher', 'card'])[1 + i % 4], i * 1.001, date '2022-06-01' + i % 1000 FROM generate_series(1, 8000) i;

CREATE TABLE reading (id int PRIMARY KEY, single real, double double precision, exact numeric, fixed numeric(20,6), wide numeric(38,10), wider numeric(60,20), tiny numeric(3,5));
INSERT INTO reading SELECT i, i / 7.0, i / 13.0, i / 17.0, i / 19.0, i * 1e20, i * 1e30, 0.00001 * (i % 999) FROM generate_series(1, 1000) i;
INSERT INTO reading VALUES (1001, 'NaN', 'NaN', 'NaN', 'NaN', NULL, 'NaN', NULL), (1002, 'Infinity', '-Infinity', 'Infinity', NULL, NULL, NULL, NULL), (1003, '-0', '-0', '-Infinity', 0, 0, 0, 0),
  (1004, 3.4028235e38, 1.7976931348623157e308, 1e131071::numeric, 99999999999999.999999, 9999999999999999999999999999.9999999999, 1, 0.00999), (1005, 1e-45, 5e-324, 1e-200::numeric, -0.000001, -0.0000000001, -1e-20, -0.00999),
  (1006, 16777217, 9007199254740993, 1.10, 1.10, 1.10, 1.10, NULL), (1007, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE era (id int PRIMARY KEY, day date, moment timestamp, instant timestamptz, hour time, zoned timetz, span interval);
INSERT INTO era SELECT i, date '0001-01-01' + i * 3000, timestamp '0001-01-01' + i * interval '3000 days 1.000001 seconds', timestamptz '0001-01-01 00:00+00' + i * interval '3000 days 1.000001 seconds',
  time '00:00' + i * interval '61.000001 seconds', '12:34:56.789+05:30', i * interval '1 month 2 days 03:04:05.000006' FROM generate_series(0, 1200) i;
INSERT INTO era VALUES (2001, 'infinity', 'infinity', '-infinity', '24:00', '24:00-15:59', '-1 year -2 mons +3 days -04:05:06.789'), (2002, '4713-01-01 BC', '4713-01-01 BC', '0044-03-15 00:00+00 BC', '00:00', '00:00+00', '0'),
  (2003, '5874897-12-31', '294276-12-31 23:59:59.999999', '10000-01-01 00:00+00', '23:59:59.999999', '01:02:03+01:02:03', '178000000 years'), (2004, '9999-12-31', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59.999999+00', NULL, NULL, '-00:00:00.000001'),
  (2005, '1969-12-31', '1969-12-31 23:59:59.999999', '1582-10-10 00:00+00', NULL, NULL, NULL);

CREATE TABLE tariff (id int PRIMARY KEY, years int4range, prices numrange, days daterange, times tsrange, ids int8range, scores score_range, several int4multirange);
INSERT INTO tariff SELECT i, int4range(i, i + 5), numrange(i * 0.5, i + 1.25, '(]'), daterange(date '2020-01-01' + i, NULL), tsrange(NULL, timestamp '2024-01-01' + i * interval '1 s'), int8range(i, i * 10000000000), score_range(i / 3.0, i), int4multirange(int4range(i, i + 1), int4range(i + 5, NULL)) FROM generate_series(1, 300) i;
INSERT INTO tariff VALUES (301, 'empty', 'empty', 'empty', 'empty', 'empty', 'empty', '{}'), (302, '(,)', '(,)', '[2024-01-01,infinity)', '(,infinity)', '(,)', '(,)', '{(,)}'), (303, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE lists (id int PRIMARY KEY, numbers int[], bigs bigint[], texts text[], exact numeric[], fixed numeric(10,2)[], days date[], instants timestamptz[], truths boolean[], floats float8[], keys uuid[], audiences rating[], homes street[], bytes bytea[]);
INSERT INTO lists SELECT i, ARRAY[i, NULL, -i], ARRAY[i * 10000000000, NULL], ARRAY[NULL, 'ä' || i, ''], ARRAY[i * 1.50, NULL], ARRAY[i, 0.5], ARRAY[date '2024-01-01' + i, NULL], ARRAY[timestamptz '2024-01-01 00:00+00' + i * interval '1 us'], ARRAY[true, NULL, false],
  ARRAY[i / 3.0, 'NaN', NULL, 'Infinity'], ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', NULL]::uuid[], ARRAY['adult', NULL]::rating[], ARRAY[ROW('x' || i, i)::street, NULL, ROW(NULL, NULL)::street], ARRAY['\x00ff'::bytea, NULL, ''] FROM generate_series(1, 800) i;
INSERT INTO lists (id) VALUES (801);
INSERT INTO lists VALUES (802, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'), (803, '{{1,2},{3,NULL}}', '{NULL}', '{{"a b","NULL"}}', '{NaN,Infinity}', '{NaN,1}', '{infinity}', '{-infinity}', NULL, '{{1,2}}', NULL, NULL, NULL, NULL);

CREATE TABLE note (id uuid PRIMARY KEY, body text, page xml, short varchar(5), fixed char(6), tag name);
INSERT INTO note SELECT ('10000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, repeat('zażółć 😀 ' || i || ' ', i % 200), ('<p n="' || i || '">é</p>')::xml, 'é' || i % 1000, 'f' || i % 99, 'n' || i FROM generate_series(1, 1200) i;
INSERT INTO note VALUES ('ffffffff-ffff-ffff-ffff-ffffffffffff', repeat('long ', 200000), NULL, '', '', ''), ('00000000-0000-0000-0000-000000000000', E'\u0001 \u2028 \r\n "', NULL, NULL, NULL, NULL);
CREATE TABLE blob (id int PRIMARY KEY, part bytea NOT NULL, place pg_lsn, owner oid);
INSERT INTO blob SELECT i, decode(repeat(lpad(to_hex(i % 256), 2, '0'), i), 'hex'), ('0/' || to_hex(i))::pg_lsn, 4294967295 - i FROM generate_series(0, 700) i;

CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, due late_fee, doubled numeric(9,2) GENERATED ALWAYS AS (due * 2) STORED, held money DEFAULT 0);
INSERT INTO ledger (due, held) SELECT i % 9999 + 0.05, (i * 0.01)::numeric::money FROM generate_series(1, 2000) i;
CREATE TABLE nothing (id int PRIMARY KEY, value text);
-- No key, and rows that are equal.
CREATE TABLE audit.entry (at timestamp, who text, what text);
INSERT INTO audit.entry SELECT timestamp '2024-01-01' + (i % 100) * interval '1 second', 'who ' || i % 3, NULLIF('what ' || i % 2, 'what 0') FROM generate_series(1, 3000) i;
CREATE UNLOGGED TABLE audit.dropped (a int, b text, c int);
ALTER TABLE audit.dropped DROP COLUMN b;
INSERT INTO audit.dropped SELECT i, -i FROM generate_series(1, 500) i;
ALTER TABLE audit.dropped ADD COLUMN added text DEFAULT 'since then';

CREATE TABLE "Back Office"."Order Lines" ("Line Id" int PRIMARY KEY, "sElEcT" text, "größe" int, "with ""quotes""" text, "dotted.name" text, "комментарий" text, "a b, c; d={e}(f)" text, "ends " int);
INSERT INTO "Back Office"."Order Lines" SELECT i, 'x', i * 2, 'q' || i, 'd', 'ё', 'odd', i FROM generate_series(1, 400) i;
CREATE TABLE "Back Office"."a.b ""c"" 'd'" ("User" int PRIMARY KEY, "table" text);
INSERT INTO "Back Office"."a.b ""c"" 'd'" SELECT i, 'row ' || i FROM generate_series(1, 200) i;
CREATE TABLE "Back Office"."größen" ("ID" bigint PRIMARY KEY, "Wert" numeric(4,1));
INSERT INTO "Back Office"."größen" SELECT i, i / 10.0 FROM generate_series(1, 300) i;

CREATE VIEW title_list AS SELECT t.id, t.name, t.audience, count(g.genre_id) AS genres, array_agg(g.genre_id ORDER BY g.genre_id) AS genre_ids, t.price * 2 AS twice FROM title t LEFT JOIN title_genre g ON g.title_id = t.id GROUP BY t.id;
CREATE VIEW "Back Office"."Revenue per Day" AS SELECT paid, method, sum(amount) AS total, avg(amount) AS mean, max(id) AS newest FROM payment GROUP BY paid, method;
CREATE MATERIALIZED VIEW popular AS SELECT copy_id, region, count(*) AS times, max(lent) AS latest FROM lending GROUP BY copy_id, region;
ANALYZE;
