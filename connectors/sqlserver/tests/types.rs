//! Every type: the least, the greatest, null, and what has no ordinary place.

use arrow::datatypes::{DataType, TimeUnit};

use crate::support::{How, Shop, plan, read, run, streams, texts, warnings};

/// A type, what is inserted, its Arrow type, and what comes of it.
type Case<'a> = (&'a str, DataType, Vec<(&'a str, &'a str)>);

fn cases() -> Vec<Case<'static>> {
    let clock = || DataType::Timestamp(TimeUnit::Microsecond, None);
    vec![
        ("bit", DataType::Boolean, vec![("0", "false"), ("1", "true")]),
        ("tinyint", DataType::UInt8, vec![("0", "0"), ("255", "255")]),
        ("smallint", DataType::Int16, vec![("-32768", "-32768"), ("32767", "32767")]),
        ("int", DataType::Int32, vec![("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
        (
            "bigint",
            DataType::Int64,
            vec![("-9223372036854775808", "-9223372036854775808"), ("9223372036854775807", "9223372036854775807")],
        ),
        ("real", DataType::Float32, vec![("-0.5", "-0.5"), ("3.25", "3.25")]),
        ("float", DataType::Float64, vec![("0.1", "0.1"), ("-1.5", "-1.5")]),
        (
            "decimal(38, 10)",
            DataType::Decimal128(38, 10),
            vec![
                ("9999999999999999999999999999.9999999999", "9999999999999999999999999999.9999999999"),
                ("-0.0000000001", "-0.0000000001"),
            ],
        ),
        ("numeric(5, 0)", DataType::Decimal128(5, 0), vec![("-99999", "-99999")]),
        (
            "money",
            DataType::Decimal128(19, 4),
            vec![("922337203685477.5807", "922337203685477.5807"), ("-922337203685477.5808", "-922337203685477.5808")],
        ),
        ("smallmoney", DataType::Decimal128(10, 4), vec![("214748.3647", "214748.3647"), ("-0.0001", "-0.0001")]),
        ("date", DataType::Date32, vec![("N'0001-01-01'", "0001-01-01"), ("N'9999-12-31'", "9999-12-31")]),
        ("time(7)", DataType::Int64, vec![("N'00:00:00'", "0"), ("N'23:59:59.9999999'", "86399999999")]),
        ("time(0)", DataType::Int64, vec![("N'12:34:56'", "45296000000")]),
        (
            "datetime",
            clock(),
            vec![
                ("N'1753-01-01T00:00:00'", "1753-01-01T00:00:00"),
                ("N'9999-12-31T23:59:59.997'", "9999-12-31T23:59:59.997"),
                ("N'2024-02-29T12:00:00.003'", "2024-02-29T12:00:00.003"),
            ],
        ),
        (
            "smalldatetime",
            clock(),
            vec![("N'1900-01-01T00:00:00'", "1900-01-01T00:00:00"), ("N'2079-06-06T23:59:00'", "2079-06-06T23:59:00")],
        ),
        (
            "datetime2(7)",
            clock(),
            vec![
                ("N'0001-01-01T00:00:00'", "0001-01-01T00:00:00"),
                ("N'9999-12-31T23:59:59.9999999'", "9999-12-31T23:59:59.999999"),
            ],
        ),
        ("datetime2(0)", clock(), vec![("N'2024-02-29T12:34:56'", "2024-02-29T12:34:56")]),
        ("datetime2(3)", clock(), vec![("N'2024-02-29T12:34:56.789'", "2024-02-29T12:34:56.789")]),
        (
            "datetimeoffset(6)",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            vec![("N'2024-02-29T01:00:00.000001+02:00'", "2024-02-28T23:00:00.000001Z")],
        ),
        ("char(5)", DataType::Utf8, vec![("'ab'", "ab   "), ("'é€'", "é€   ")]),
        ("varchar(20)", DataType::Utf8, vec![("''", ""), ("'naïve €'", "naïve €")]),
        ("varchar(20) COLLATE Latin1_General_100_CI_AS_SC_UTF8", DataType::Utf8, vec![("N'日本 🙂'", "日本 🙂")]),
        ("varchar(20) COLLATE SQL_Latin1_General_CP850_CI_AS", DataType::Utf8, vec![("'é'", "é")]),
        ("varchar(max)", DataType::Utf8, vec![("'x'", "x")]),
        ("nchar(3)", DataType::Utf8, vec![("N'ü'", "ü  ")]),
        ("nvarchar(50)", DataType::Utf8, vec![("N'日本 🙂'", "日本 🙂")]),
        ("nvarchar(max)", DataType::Utf8, vec![("N''", ""), ("N'it''s'", "it's")]),
        ("text", DataType::Utf8, vec![("'old'", "old")]),
        ("ntext", DataType::Utf8, vec![("N'öld'", "öld")]),
        ("xml", DataType::Utf8, vec![("N'<a>ü</a>'", "<a>ü</a>")]),
        ("binary(4)", DataType::Binary, vec![("0x01", "01000000")]),
        ("varbinary(10)", DataType::Binary, vec![("0x", ""), ("0x00ff", "00ff")]),
        ("varbinary(max)", DataType::Binary, vec![("0xdeadbeef", "deadbeef")]),
        ("image", DataType::Binary, vec![("0xcafe", "cafe")]),
        (
            "uniqueidentifier",
            DataType::Utf8,
            vec![("'6f9619ff-8b86-d011-b42d-00c04fc964ff'", "6F9619FF-8B86-D011-B42D-00C04FC964FF")],
        ),
        ("hierarchyid", DataType::Utf8, vec![("N'/1/3/'", "/1/3/")]),
        (
            "sql_variant",
            DataType::Utf8,
            vec![
                ("CONVERT(int, 7)", "7"),
                ("CONVERT(nvarchar(10), N'ü')", "ü"),
                ("CONVERT(varchar(10), 'x')", "x"),
                ("CONVERT(varbinary(8), 0x00ff)", "0x00FF"),
                ("CONVERT(money, 1.5)", "1.5000"),
                ("CONVERT(float, 0.1)", "1.0000000000000001e-001"),
                ("CONVERT(datetime2(3), N'2024-02-29T12:34:56.789')", "2024-02-29T12:34:56.789"),
            ],
        ),
    ]
}

#[tokio::test]
async fn every_type_keeps_its_values_and_nulls() {
    for (declared, data_type, values) in cases() {
        let mut rows: Vec<String> = values.iter().enumerate().map(|(i, (sql, _))| format!("({i}, {sql})")).collect();
        rows.push(format!("({}, NULL)", values.len()));
        let shop = Shop::new(&format!(
            "CREATE TABLE $.t (id int PRIMARY KEY, v {declared});\nINSERT INTO $.t (id, v) VALUES {}",
            rows.join(", ")
        ))
        .await;
        let source = shop.open().await;
        let stream = shop.stream("t");
        let found = streams(&*source, &[&stream]).await;
        assert_eq!(found[0].schema.field(1).data_type(), &data_type, "{declared}");
        let batches = run(&*source, &stream, &mut How::full()).await.expect(declared);
        let mut wanted: Vec<Option<String>> = values.iter().map(|(_, text)| Some((*text).to_owned())).collect();
        wanted.push(None);
        assert_eq!(texts(&batches, "v"), wanted, "{declared}");
    }
}

#[tokio::test]
async fn columns_that_are_never_null_are_read_in_their_own_form() {
    let declared = ["bit", "tinyint", "smallint", "int", "bigint", "real", "float", "money", "smallmoney"];
    let columns: Vec<String> = declared.iter().map(|ty| format!("c_{ty} {ty} NOT NULL")).collect();
    let names: Vec<String> = declared.iter().map(|ty| format!("c_{ty}")).collect();
    let shop = Shop::new(&format!(
        "CREATE TABLE $.t ({}, at datetime NOT NULL, minute smalldatetime NOT NULL);\n\
         INSERT INTO $.t ({}, at, minute) VALUES ({}, N'2024-01-01T00:00:00', N'2024-01-01T00:00:00')",
        columns.join(", "),
        names.join(", "),
        vec!["1"; declared.len()].join(", "),
    ))
    .await;
    let source = shop.open().await;
    let found = streams(&*source, &[&shop.stream("t")]).await;
    assert!(found[0].schema.fields().iter().all(|field| !field.is_nullable()));
    let batches = run(&*source, &shop.stream("t"), &mut How::full()).await.expect("rows");
    let wanted = ["true", "1", "1", "1", "1", "1.0", "1.0", "1.0000", "1.0000"];
    for (name, wanted) in names.iter().zip(wanted) {
        assert_eq!(texts(&batches, name), [Some(wanted.to_owned())], "{name}");
    }
    assert_eq!(texts(&batches, "at"), [Some("2024-01-01T00:00:00".to_owned())]);
}

#[tokio::test]
async fn a_geometry_is_its_wkb_and_the_row_version_eight_bytes_on_the_script() {
    let shop = Shop::scripted(
        "CREATE TABLE $.t (id int PRIMARY KEY, shape geography, changed rowversion);\n\
         INSERT INTO $.t (id, shape) VALUES (1, 0x0101000000)",
    )
    .await;
    let source = shop.open().await;
    let batches = run(&*source, &shop.stream("t"), &mut How::full()).await.expect("rows");
    assert_eq!(texts(&batches, "shape"), [Some("0101000000".to_owned())]);
    assert_eq!(texts(&batches, "changed"), [Some("00000000000007d1".to_owned())]);
    let asked = shop.script().state().statements().iter().any(|sql| sql.contains("[shape].AsBinaryZM()"));
    assert!(asked, "the server writes the WKB");
}

#[tokio::test]
async fn half_of_a_pair_is_replaced_and_counted_on_the_script() {
    // The script sends this private character as a lone surrogate.
    let shop = Shop::scripted(
        "CREATE TABLE $.t (id int PRIMARY KEY, name nvarchar(20));\nINSERT INTO $.t (id, name) VALUES (1, N'a\u{e000}b'), (2, N'ok')",
    )
    .await;
    let source = shop.open().await;
    let found = streams(&*source, &[&shop.stream("t")]).await;
    let plan = plan(&*source, &found, &How::full()).await.expect("a plan");
    let out = read(&*source, &plan.slices[0], None, &How::full()).await.expect("rows");
    assert_eq!(out.rows(), 2);
    let said = warnings(&out);
    assert!(said.iter().any(|text| text.starts_with("1 values of column \"name\"")), "{said:?}");
}
