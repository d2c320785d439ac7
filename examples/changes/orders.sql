-- A shop whose orders are placed, paid, changed and cancelled, for ten minutes.
DROP TABLE IF EXISTS order_lines, orders;
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer text NOT NULL,
  state text NOT NULL DEFAULT 'placed',
  placed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE order_lines (
  order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
  line int NOT NULL,
  product text NOT NULL,
  price numeric(8,2) NOT NULL,
  PRIMARY KEY (order_id, line)
);

CREATE OR REPLACE PROCEDURE trade(seconds int) LANGUAGE plpgsql AS $$
DECLARE
  until timestamptz := clock_timestamp() + make_interval(secs => seconds);
  placed bigint;
BEGIN
  WHILE clock_timestamp() < until LOOP
    INSERT INTO orders (customer) VALUES ('customer ' || (random() * 1000)::int) RETURNING id INTO placed;
    INSERT INTO order_lines SELECT placed, line, 'product ' || (random() * 50)::int, (random() * 100)::numeric(8,2)
      FROM generate_series(1, 1 + (random() * 4)::int) line;
    UPDATE orders SET state = 'paid' WHERE id = placed - (random() * 20)::int;
    UPDATE order_lines SET price = price * 0.9 WHERE order_id = placed - (random() * 20)::int;
    DELETE FROM orders WHERE id = placed - 100 - (random() * 20)::int;
    COMMIT;
    PERFORM pg_sleep(random() * 0.01);
  END LOOP;
END $$;

CALL trade(600);
