//! Every type of the servers, with its ends: in Arrow as the server prints it.

use arrow_schema::{DataType, TimeUnit};
use ingest_testkit::mysql::Flavour;

use crate::support::{How, Shop, run, streams, texts};

/// A column: its type in SQL, the type in Arrow, values in SQL and what Arrow prints of them (`None` = null).
type Case = (&'static str, DataType, &'static [(&'static str, Option<&'static str>)]);

fn decimal(precision: u8, scale: i8) -> DataType {
    DataType::Decimal128(precision, scale)
}

fn cases(flavour: Flavour) -> Vec<Case> {
    let datetime = DataType::Timestamp(TimeUnit::Microsecond, None);
    let mut cases: Vec<Case> = vec![
        ("TINYINT", DataType::Int8, &[("-128", Some("-128")), ("127", Some("127"))]),
        ("TINYINT(1)", DataType::Int8, &[("2", Some("2"))]),
        ("TINYINT UNSIGNED", DataType::UInt8, &[("255", Some("255")), ("0", Some("0"))]),
        ("SMALLINT", DataType::Int16, &[("-32768", Some("-32768"))]),
        ("SMALLINT UNSIGNED", DataType::UInt16, &[("65535", Some("65535"))]),
        ("MEDIUMINT", DataType::Int32, &[("-8388608", Some("-8388608"))]),
        ("MEDIUMINT UNSIGNED", DataType::UInt32, &[("16777215", Some("16777215"))]),
        ("INT", DataType::Int32, &[("-2147483648", Some("-2147483648"))]),
        ("INT(5) UNSIGNED ZEROFILL", DataType::UInt32, &[("4294967295", Some("4294967295")), ("7", Some("7"))]),
        ("BIGINT", DataType::Int64, &[("-9223372036854775808", Some("-9223372036854775808"))]),
        ("BIGINT UNSIGNED", DataType::UInt64, &[("18446744073709551615", Some("18446744073709551615"))]),
        ("FLOAT", DataType::Float32, &[("1.5", Some("1.5")), ("-3.402823e38", Some("-3.402823e38"))]),
        (
            "DOUBLE",
            DataType::Float64,
            &[("0.1", Some("0.1")), ("-1.7976931348623157e308", Some("-1.7976931348623157e308"))],
        ),
        (
            "DECIMAL(10,3)",
            decimal(10, 3),
            &[("-12.345", Some("-12.345")), ("9999999.999", Some("9999999.999")), ("0", Some("0.000"))],
        ),
        (
            "DECIMAL(38,30)",
            decimal(38, 30),
            &[("-99999999.999999999999999999999999999999", Some("-99999999.999999999999999999999999999999"))],
        ),
        (
            "DECIMAL(65,0)",
            DataType::Utf8,
            &[(
                "99999999999999999999999999999999999999999999999999999999999999999",
                Some("99999999999999999999999999999999999999999999999999999999999999999"),
            )],
        ),
        ("BIT(1)", DataType::Boolean, &[("b'1'", Some("true")), ("b'0'", Some("false"))]),
        ("BIT(10)", DataType::Binary, &[("b'1100000001'", Some("0301"))]),
        ("YEAR", DataType::Int16, &[("2155", Some("2155")), ("0", Some("0")), ("1901", Some("1901"))]),
        (
            "DATE",
            DataType::Date32,
            &[
                ("'9999-12-31'", Some("9999-12-31")),
                ("'1000-01-01'", Some("1000-01-01")),
                ("'0000-00-00'", None),
                ("'2024-02-00'", None),
            ],
        ),
        (
            "DATETIME",
            datetime.clone(),
            &[("'2024-02-29 12:34:56'", Some("2024-02-29T12:34:56")), ("'0000-00-00 00:00:00'", None)],
        ),
        ("DATETIME(6)", datetime, &[("'9999-12-31 23:59:59.999999'", Some("9999-12-31T23:59:59.999999"))]),
        (
            "TIMESTAMP(3) NULL",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            &[("'2038-01-19 03:14:07.999'", Some("2038-01-19T03:14:07.999Z")), ("'0000-00-00 00:00:00'", None)],
        ),
        (
            "TIME(6)",
            DataType::Int64,
            &[("'-838:59:59.000000'", Some("-3020399000000")), ("'00:00:00.000001'", Some("1"))],
        ),
        ("CHAR(5)", DataType::Utf8, &[("'é  '", Some("é")), ("''", Some(""))]),
        ("VARCHAR(20) CHARACTER SET latin1", DataType::Utf8, &[("'naïve €'", Some("naïve €"))]),
        ("VARCHAR(20) CHARACTER SET ucs2", DataType::Utf8, &[("'日本'", Some("日本"))]),
        ("TEXT CHARACTER SET sjis", DataType::Utf8, &[("'日本'", Some("日本"))]),
        ("LONGTEXT", DataType::Utf8, &[("'😀 end '", Some("😀 end "))]),
        ("ENUM('a','b''c','é')", DataType::Utf8, &[("'b''c'", Some("b'c")), ("'wrong'", Some("")), ("3", Some("é"))]),
        ("SET('x','y','z')", DataType::Utf8, &[("'z,x'", Some("x,z")), ("''", Some(""))]),
        ("BINARY(4)", DataType::Binary, &[("'a'", Some("61000000"))]),
        ("VARBINARY(10)", DataType::Binary, &[("X'00ff'", Some("00ff")), ("''", Some(""))]),
        ("BLOB", DataType::Binary, &[("X'c3'", Some("c3"))]),
        (
            "POINT",
            DataType::Binary,
            &[("ST_GeomFromText('POINT(1 2)')", Some("0101000000000000000000f03f0000000000000040"))],
        ),
        (
            "GEOMETRY",
            DataType::Binary,
            &[("ST_GeomFromText('POINT(-1 0.5)')", Some("0101000000000000000000f0bf000000000000e03f"))],
        ),
    ];
    match flavour {
        // Keys in the server's own order.
        Flavour::Mysql => cases.push((
            "JSON",
            DataType::Utf8,
            &[("'{\"bb\": 1.50, \"a\": [true, null]}'", Some("{\"a\": [true, null], \"bb\": 1.5}"))],
        )),
        Flavour::MariaDb => {
            cases.push(("JSON", DataType::Utf8, &[("'{\"bb\": 1.50,\"a\":1}'", Some("{\"bb\": 1.50,\"a\":1}"))]));
            cases.push((
                "INET6",
                DataType::Utf8,
                &[("'2001:db8::1'", Some("2001:db8::1")), ("'::ffff:1.2.3.4'", Some("::ffff:1.2.3.4"))],
            ));
            cases.push(("INET4", DataType::Utf8, &[("'127.0.0.1'", Some("127.0.0.1"))]));
            cases.push((
                "UUID",
                DataType::Utf8,
                &[("'123e4567-e89b-12d3-a456-426614174000'", Some("123e4567-e89b-12d3-a456-426614174000"))],
            ));
        }
    }
    cases
}

#[tokio::test]
async fn every_type_keeps_its_values() {
    for shop in Shop::each("SELECT 1").await {
        let source = shop.open().await;
        for (i, (sql, arrow, values)) in cases(shop.flavour()).iter().enumerate() {
            let rows: Vec<String> =
                values.iter().enumerate().map(|(n, (value, _))| format!("({n}, {value})")).collect();
            let null = if sql.contains("NULL") { "" } else { "NULL" };
            shop.sql(&format!(
                "CREATE TABLE t{i} (id INT PRIMARY KEY, v {sql} {null}); INSERT IGNORE INTO t{i} VALUES {}, ({}, NULL)",
                rows.join(","),
                values.len()
            ))
            .await;
            let stream = shop.stream(&format!("t{i}"));
            let found = streams(&*source, &[&stream]).await;
            let field = found[0].schema.field_with_name("v").expect("a column");
            assert_eq!(field.data_type(), arrow, "{sql} on {:?}", shop.flavour());
            let batches = run(&*source, &stream, &mut How::full()).await.expect(sql);
            let mut wanted: Vec<Option<String>> = values
                .iter()
                .map(|(_, text)| text.map(|text| text.replace(' ', if *arrow == DataType::Binary { "" } else { " " })))
                .collect();
            wanted.push(None);
            let shown: Vec<Option<String>> =
                texts(&batches, "v").into_iter().map(|text| text.map(|text| text.replace("e+", "e"))).collect();
            assert_eq!(shown, wanted, "{sql} on {:?}", shop.flavour());
        }
    }
}

#[tokio::test]
async fn dates_that_are_none_are_null_and_rescued() {
    for shop in Shop::each(
        "CREATE TABLE t (id INT PRIMARY KEY, d DATE NOT NULL, at DATETIME(3) NOT NULL, ts TIMESTAMP NOT NULL DEFAULT '0000-00-00 00:00:00');
         INSERT INTO t VALUES (1, '0000-00-00', '2024-00-10 01:02:03.5', '0000-00-00 00:00:00'), (2, '2024-01-01', '2024-01-01', '2024-01-01')",
    )
    .await
    {
        let source = shop.open().await;
        let batches = run(&*source, &shop.stream("t"), &mut How::full()).await.expect("rows");
        assert_eq!(texts(&batches, "d"), [None, Some("2024-01-01".into())]);
        let rescued = texts(&batches, "_ingest_rescued");
        assert_eq!(
            rescued,
            [Some(r#"{"at":"2024-00-10 01:02:03.500000","d":"0000-00-00","ts":"0000-00-00"}"#.into()), None],
            "{:?}",
            shop.flavour()
        );
    }
}
