//! Every type: null, least, greatest, zero, empty, long, not ASCII, against the server's own text of the value.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};

use crate::support::{How, Shop, run, streams, texts};

const UTC: &str = "SET TimeZone TO 'UTC'; SET IntervalStyle TO 'iso_8601'; SET extra_float_digits TO 3;";

/// What the types of a database need.
const TYPES: &str = "
CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'so, so', 'glücklich');
CREATE TYPE inner_pair AS (a int, b text);
CREATE TYPE pair AS (id bigint, name text, at timestamp, nested inner_pair, tags text[]);
CREATE TYPE with_point AS (id int, at point);
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE >= 0);
CREATE DOMAIN dear_price AS price;
CREATE DOMAIN name_list AS text[];
CREATE TYPE float_range AS RANGE (subtype = float8);
";

struct Case {
    sql_type: &'static str,
    data_type: DataType,
    /// An expression over `v` that gives the server's text as Arrow prints it.
    text: &'static str,
    fit: &'static [&'static str],
    /// Values that have no place in the column: null there, their text in `_ingest_rescued`.
    rescued: &'static [&'static str],
}

fn case(sql_type: &'static str, data_type: DataType, text: &'static str, fit: &'static [&'static str]) -> Case {
    Case { sql_type, data_type, text, fit, rescued: &[] }
}

fn text_case(sql_type: &'static str, fit: &'static [&'static str]) -> Case {
    case(sql_type, DataType::Utf8, "v::text", fit)
}

const MICROS: &str = "CASE WHEN v::text NOT LIKE '%infinity' THEN round(extract(epoch FROM v) * 1000000)::text END";

fn numbers() -> Vec<Case> {
    vec![
        case("bool", DataType::Boolean, "v::text", &["'t'", "'f'"]),
        case("int2", DataType::Int16, "v::text", &["-32768", "0", "32767"]),
        case("int4", DataType::Int32, "v::text", &["-2147483648", "0", "2147483647"]),
        case("int8", DataType::Int64, "v::text", &["-9223372036854775808", "0", "9223372036854775807"]),
        case("oid", DataType::Int64, "v::text", &["0", "4294967295"]),
        case("xid", DataType::Int64, "v::text", &["'3'", "'4294967295'"]),
        case(
            "float4",
            DataType::Float32,
            "v::text",
            &["0", "'-0'", "1.5", "3.4028235e38", "1e-45", "'NaN'", "'Infinity'", "'-Infinity'"],
        ),
        case(
            "float8",
            DataType::Float64,
            "v::text",
            &["0", "'-0'", "0.1", "1.7976931348623157e308", "5e-324", "'NaN'", "'Infinity'", "'-Infinity'"],
        ),
        Case {
            rescued: &["'NaN'"],
            ..case(
                "numeric(12,3)",
                DataType::Decimal128(12, 3),
                "v::text",
                &["0", "-0.001", "999999999.999", "-999999999.999", "1.5", "10000", "0.1"],
            )
        },
        case(
            "numeric(38,0)",
            DataType::Decimal128(38, 0),
            "v::text",
            &["0", "99999999999999999999999999999999999999", "-99999999999999999999999999999999999999", "100000000"],
        ),
        case(
            "numeric(38,38)",
            DataType::Decimal128(38, 38),
            "v::text",
            &["0.99999999999999999999999999999999999999", "0.00000000000000000000000000000000000001"],
        ),
        case("numeric(5,-2)", DataType::Decimal128(7, 0), "v::text", &["12345", "-9999900", "0"]),
        case("numeric(3,5)", DataType::Decimal128(5, 5), "v::text", &["0.00999", "-0.00001"]),
        text_case(
            "numeric",
            &[
                "0",
                "0.00",
                "-1.50",
                "12345678901234567890123456789012345678901234.5",
                "'NaN'",
                "'Infinity'",
                "'-Infinity'",
                "1e-30",
                "1e131071::numeric",
                "10000",
                "100000000.0001",
            ],
        ),
        text_case("numeric(50,10)", &["1", "1234567890123456789012345678901234567890.0123456789"]),
        case(
            "money",
            DataType::Decimal128(19, 2),
            "v::numeric::text",
            &["0", "-92233720368547758.08", "92233720368547758.07", "12.34"],
        ),
        case("price", DataType::Decimal128(10, 2), "v::text", &["0", "12345678.90"]),
        case("dear_price", DataType::Decimal128(10, 2), "v::text", &["7"]),
        text_case("pg_lsn", &["'0/0'", "'FFFFFFFF/FFFFFFFF'", "'16/B374D848'"]),
    ]
}

fn instants() -> Vec<Case> {
    let micros = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    vec![
        Case {
            rescued: &[
                "'infinity'",
                "'-infinity'",
                "'0044-03-15 BC'",
                "'10000-01-01'",
                "'5874897-12-31'",
                "'4713-01-01 BC'",
            ],
            ..case(
                "date",
                DataType::Date32,
                "v::text",
                &["'0001-01-01'", "'1970-01-01'", "'2024-02-29'", "'9999-12-31'"],
            )
        },
        Case {
            rescued: &[
                "'infinity'",
                "'-infinity'",
                "'0001-12-31 23:59:59.999999 BC'",
                "'10000-01-01'",
                "'294276-12-31 23:59:59.999999'",
                "'4713-01-01 BC'",
            ],
            ..case(
                "timestamp",
                micros(None),
                MICROS,
                &["'0001-01-01'", "'1970-01-01'", "'1969-12-31 23:59:59.999999'", "'9999-12-31 23:59:59.999999'"],
            )
        },
        Case {
            rescued: &["'infinity'", "'10000-01-01 00:00:00.5+00'"],
            ..case(
                "timestamptz",
                micros(Some("UTC")),
                MICROS,
                &["'0001-01-01 00:00+00'", "'2024-03-31 02:30:00.123456+02'", "'9999-12-31 23:59:59.999999+00'"],
            )
        },
        case("timestamp(3)", micros(None), MICROS, &["'2024-01-01 00:00:00.123456'"]),
        case("time", DataType::Int64, MICROS, &["'00:00'", "'23:59:59.999999'", "'24:00'"]),
        text_case("timetz", &["'00:00+00'", "'24:00-15:59'", "'12:34:56.789+05:30'", "'01:02:03+01:02:03'"]),
        text_case(
            "interval",
            &[
                "'0'",
                "'1 year 2 mons 3 days 04:05:06.789'",
                "'-1 year -2 mons +3 days -04:05:06.789'",
                "'-00:00:00.000001'",
                "'178000000 years'",
                "'1 mon -1 day'",
                "'2562047788:00:54.775807'",
                "'-0.5 seconds'",
                "'-1 days +1 min'",
            ],
        ),
    ]
}

fn words() -> Vec<Case> {
    vec![
        text_case(
            "text",
            &["''", "'a'", "'zażółć 😀 \u{301}'", "repeat('long ', 100000)", "E'quote \" tab \\t newline \\n'"],
        ),
        text_case("varchar(10)", &["''", "'ten chars.'"]),
        // The cast to text drops the blanks that the type has.
        case("char(4)", DataType::Utf8, "rpad(v::text, 4)", &["''", "'ab'", "'éé'"]),
        text_case("name", &["'n'"]),
        text_case("\"char\"", &["'x'", "''"]),
        text_case("citext", &["'MiXed'"]),
        text_case("json", &["'{\"n\": 9007199254740993, \"n\":  1.0}'", "'[]'", "'null'"]),
        text_case("jsonb", &["'{\"n\": 9007199254740993, \"b\": 12345678901234567890.123}'", "'\"é\"'"]),
        text_case("xml", &["'<a b=\"1\">é</a>'", "'<?xml version=\"1.0\"?><a/>'"]),
        text_case("mood", &["'sad'", "'so, so'", "'glücklich'"]),
        text_case(
            "uuid",
            &[
                "'00000000-0000-0000-0000-000000000000'",
                "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            ],
        ),
        // The cast to text always shows the mask, the type itself only where it is not full.
        case(
            "inet",
            DataType::Utf8,
            "CASE WHEN v IS NOT NULL THEN format('%s', v) END",
            &[
                "'0.0.0.0'",
                "'10.1.2.3/24'",
                "'::'",
                "'::1'",
                "'2001:db8::1/64'",
                "'::ffff:1.2.3.4'",
                "'1:0:0:2:0:0:0:3'",
                "'1:2:3:4:5:6:7:0'",
                "'::1.2.3.4'",
                "'::ffff'",
                "'::1:2'",
                "'0:0:1::'",
            ],
        ),
        // The cast to text always shows the mask, as the type does.
        text_case("cidr", &["'10.0.0.0/8'", "'192.168.1.1/32'", "'2001:db8::/32'", "'::1/128'"]),
        text_case("macaddr", &["'00:00:00:00:00:00'", "'08:00:2b:01:02:03'"]),
        text_case("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
        text_case("bit(3)", &["B'101'", "B'000'"]),
        text_case("bit varying", &["B''", "B'10110'", "B'101101110'"]),
        text_case("tsvector", &["'a:1 fat:2B cat:3'", "''"]),
        text_case("tsquery", &["'fat & rat'"]),
        text_case("point", &["'(1.5,-2)'"]),
        text_case("polygon", &["'((0,0),(1,1),(1,0))'"]),
        text_case("regclass", &["'pg_class'"]),
        text_case("int2vector", &["'1 2'"]),
        text_case("with_point", &["'(1,\"(2,3)\")'"]),
        text_case("jsonpath", &["'$.a'"]),
        case(
            "bytea",
            DataType::Binary,
            "encode(v, 'hex')",
            &["''", "'\\x00ff'", "decode(repeat('ab', 100000), 'hex')"],
        ),
    ]
}

/// Values as the server prints them in an expression like [`Case::text`].
fn as_printed(array: &ArrayRef) -> Vec<Option<String>> {
    let array = match array.data_type() {
        DataType::Timestamp(_, _) => arrow::compute::cast(array, &DataType::Int64).expect("the same numbers"),
        _ => array.clone(),
    };
    let batch = RecordBatch::try_from_iter_with_nullable([("v", array, true)]).expect("one column");
    texts(&[batch], "v")
}

async fn round_trips(cases: Vec<Case>) {
    let Some(shop) = Shop::new(TYPES).await else { return };
    shop.sql(UTC).await;
    let source = shop.open().await;
    for (number, case) in cases.iter().enumerate() {
        let values: Vec<&str> = case.fit.iter().chain(case.rescued).copied().collect();
        let rows: Vec<String> =
            values.iter().enumerate().map(|(i, value)| format!("({i}, ({value})::{})", case.sql_type)).collect();
        shop.sql(&format!(
            "CREATE TABLE t{number} (id int, v {}); INSERT INTO t{number} VALUES {}, (-1, NULL)",
            case.sql_type,
            rows.join(", ")
        ))
        .await;
        let name = format!("public.t{number}");
        let found = streams(&*source, &[&name]).await;
        let field = found[0].schema.field(1);
        assert_eq!(field.data_type(), &case.data_type, "{}", case.sql_type);
        let batches =
            run(&*source, &name, &mut How::full()).await.unwrap_or_else(|e| panic!("{}: {e:?}", case.sql_type));
        let batch = arrow::compute::concat_batches(&batches[0].schema(), &batches).expect("one schema");
        assert_eq!(batch.column(1).data_type(), field.data_type());
        let printed = as_printed(batch.column(1));
        let rescued = texts(&batches, "_ingest_rescued");
        let truth = shop.texts(&format!("SELECT id, {}, v::text FROM t{number} ORDER BY ctid", case.text)).await;
        assert_eq!(truth.len(), printed.len());
        for (row, truth) in truth.iter().enumerate() {
            let id: i64 = truth[0].as_deref().expect("an id").parse().expect("a number");
            let (expected, kept) = match usize::try_from(id) {
                Ok(i) if i >= case.fit.len() => (None, truth[2].clone()),
                _ => (truth[1].clone(), None),
            };
            let context =
                || format!("{} {}", case.sql_type, values.get(usize::try_from(id).unwrap_or(99)).unwrap_or(&"NULL"));
            assert_same(printed[row].as_deref(), expected.as_deref(), &case.data_type, &context());
            let object = kept.map(|kept| serde_json::json!({"v": kept}).to_string());
            assert_eq!(rescued[row], object, "{}", context());
        }
    }
}

/// Floats may be printed differently and be the same; all else is compared as text.
fn assert_same(found: Option<&str>, expected: Option<&str>, data_type: &DataType, context: &str) {
    match (found, expected, data_type) {
        (Some(found), Some(expected), DataType::Float32 | DataType::Float64) => {
            let number = |text: &str| text.to_lowercase().parse::<f64>().expect("a number");
            let (found, expected) = match data_type {
                DataType::Float32 => (f64::from(number(found) as f32), f64::from(number(expected) as f32)),
                _ => (number(found), number(expected)),
            };
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{context}: {found} {expected}"
            );
        }
        _ => assert!(found == expected, "{context}: found {}, expected {}", cut(found), cut(expected)),
    }
}

fn cut(text: Option<&str>) -> String {
    text.map_or("null".into(), |text| text.chars().take(200).collect())
}

#[tokio::test]
async fn numbers_round_trip() {
    round_trips(numbers()).await;
}

#[tokio::test]
async fn dates_and_times_round_trip_or_are_rescued() {
    round_trips(instants()).await;
}

#[tokio::test]
async fn texts_and_bytes_round_trip() {
    round_trips(words()).await;
}

/// One row of one column: its Arrow text, and what was rescued.
async fn one(shop: &Shop, sql_type: &str, value: &str) -> (Option<String>, Option<String>) {
    shop.sql(&format!("DROP TABLE IF EXISTS one; CREATE TABLE one (v {sql_type}); INSERT INTO one VALUES ({value})"))
        .await;
    let source = shop.open().await;
    let batches = run(&*source, "public.one", &mut How::full()).await.unwrap_or_else(|e| panic!("{sql_type}: {e:?}"));
    (texts(&batches, "v")[0].clone(), texts(&batches, "_ingest_rescued")[0].clone())
}

#[tokio::test]
async fn nested_types_keep_their_shape() {
    let Some(shop) = Shop::new(TYPES).await else { return };
    for (sql_type, value, expected) in [
        ("int4[]", "'{}'", "[]"),
        ("int4[]", "'{1,NULL,-3}'", "[1, , -3]"),
        ("text[]", r#"'{"",NULL,"a,b","\""}'"#, r#"[, , a,b, "]"#),
        ("numeric(10,2)[]", "'{1.5,2}'", "[1.50, 2.00]"),
        ("numeric[]", "'{1.50,NaN}'", "[1.50, NaN]"),
        ("mood[]", "'{sad}'", "[sad]"),
        ("money[]", "'{1.5}'", "[1.50]"),
        ("point[]", r#"'{"(1,2)","(3,4)"}'"#, "[(1,2), (3,4)]"),
        ("name_list", "'{x,y}'", "[x, y]"),
        ("price[]", "'{1.5}'", "[1.50]"),
        ("date[]", "'{2024-02-29}'", "[2024-02-29]"),
        ("int4range", "'[1,5)'", "{lower: 1, upper: 5, lower_inc: true, upper_inc: false, empty: false}"),
        ("int4range", "'(,5)'", "{lower: , upper: 5, lower_inc: false, upper_inc: false, empty: false}"),
        ("int8range", "'empty'", "{lower: , upper: , lower_inc: false, upper_inc: false, empty: true}"),
        ("numrange", "'(1.50,2]'", "{lower: 1.50, upper: 2, lower_inc: false, upper_inc: true, empty: false}"),
        ("float_range", "'[1.5,2)'", "{lower: 1.5, upper: 2.0, lower_inc: true, upper_inc: false, empty: false}"),
        (
            "int4multirange",
            "'{[1,2),[5,)}'",
            "[{lower: 1, upper: 2, lower_inc: true, upper_inc: false, empty: false}, {lower: 5, upper: , lower_inc: true, upper_inc: false, empty: false}]",
        ),
        ("hstore", r#"'"a"=>"1", "b"=>NULL'"#, "{a: 1, b: }"),
        ("inner_pair", "ROW(1, 'x,y')", "{a: 1, b: x,y}"),
        (
            "pair",
            "ROW(7, NULL, '2024-01-01 00:00+00', ROW(1, 'in'), ARRAY['p', NULL])",
            "{id: 7, name: , at: 2024-01-01T00:00:00, nested: {a: 1, b: in}, tags: [p, ]}",
        ),
        ("inner_pair[]", "ARRAY[ROW(1, 'x')::inner_pair, NULL]", "[{a: 1, b: x}, ]"),
    ] {
        let (found, rescued) = one(&shop, sql_type, value).await;
        assert_eq!((found.as_deref(), rescued), (Some(expected), None), "{sql_type} {value}");
    }
}

#[tokio::test]
async fn nested_values_that_do_not_fit_are_rescued_as_the_server_prints_them() {
    let Some(shop) = Shop::new(TYPES).await else { return };
    for (sql_type, value, kept) in [
        ("int4[]", "'{{1,2},{3,NULL}}'", None),
        ("text[]", r#"ARRAY[ARRAY['a b','NULL'],ARRAY['','q"\']]"#, None),
        ("float8[]", "'{{1e20,0.00001},{123456789012345,1e15}}'", None),
        ("bytea[]", r#"'{{"\\x00ff"}}'"#, None),
        ("bool[]", "'{{t,f}}'", None),
        ("interval[]", "'{{1 day}}'", None),
        ("int4[]", "'[0:2]={1,2,3}'", Some("[1, 2, 3]")),
        ("date[]", "'{2024-01-01,infinity}'", None),
        ("daterange", "'[2024-01-01,infinity)'", None),
        ("tstzrange", "'[\"2024-01-01 00:00+00\",infinity]'", None),
        ("pair", r#"ROW(1, 'a "b" \c', 'infinity', NULL, '{}')"#, None),
        ("inner_pair[]", "ARRAY[ARRAY[ROW(1, 'x y')::inner_pair], ARRAY[NULL::inner_pair]]", None),
        ("datemultirange", "'{[2024-01-01,2024-01-05),[2025-01-01,infinity)}'", None),
    ] {
        let (found, rescued) = one(&shop, sql_type, value).await;
        shop.sql(UTC).await;
        let truth = shop.texts("SELECT v::text FROM one").await;
        let expected = serde_json::json!({"v": truth[0][0]}).to_string();
        assert_eq!((found.as_deref(), rescued.as_deref()), (kept, Some(expected.as_str())), "{sql_type} {value}");
    }
}

#[tokio::test]
async fn text_of_an_sql_ascii_database_that_is_not_utf8_is_rescued() {
    let Some(shop) = Shop::new("SELECT 1").await else { return };
    let name = format!("{}_ascii", shop.database.name);
    shop.sql(&format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")).await;
    let client = shop.server.client(&name).await;
    client
        .batch_execute("CREATE TABLE t AS SELECT 'plain' AS v UNION ALL SELECT E'caf\\xe9'")
        .await
        .expect("valid SQL");
    let shop = shop.with("database", name.as_str());
    let source = shop.open().await;
    let batches = run(&*source, "public.t", &mut How::full()).await.expect("a load");
    assert_eq!(texts(&batches, "v"), [Some("plain".to_owned()), None]);
    assert_eq!(texts(&batches, "_ingest_rescued"), [None, Some(r#"{"v":"\\x636166e9"}"#.to_owned())]);
}

#[tokio::test]
async fn a_column_that_was_narrowed_by_its_type_keeps_what_does_not_fit() {
    let Some(shop) = Shop::new("CREATE TABLE t (v numeric(12,2) NOT NULL); INSERT INTO t VALUES (12345.67)").await
    else {
        return;
    };
    // What a restored or damaged catalog may hold: a declared precision below that of the values.
    shop.sql(
        "UPDATE pg_attribute SET atttypmod = ((4 << 16) | 1) + 4 WHERE attrelid = 't'::regclass AND attname = 'v'",
    )
    .await;
    let source = shop.open().await;
    let found = streams(&*source, &["public.t"]).await;
    assert!(found[0].schema.field(0).is_nullable(), "a rescued value leaves a null");
    let batches = run(&*source, "public.t", &mut How::full()).await.expect("a load");
    assert!(batches[0].column(0).is_null(0));
    let rescued = batches[0].column_by_name("_ingest_rescued").expect("rescued").as_string::<i32>();
    assert_eq!(rescued.value(0), r#"{"v":"12345.67"}"#);
}
