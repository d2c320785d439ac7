use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::{Decoder, FORMAT, Limits, PageShape, SOURCE_NAME};
use crate::ErrorKind;

fn formatted(name: &str, data_type: DataType, format: &str) -> Field {
    Field::new(name, data_type, true).with_metadata([(FORMAT.to_owned(), format.to_owned())].into())
}

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

fn one(data_type: DataType) -> Decoder {
    Decoder::new(schema(vec![Field::new("a", data_type, true)])).expect("a supported type")
}

fn rescued(batch: &RecordBatch, row: usize) -> Option<String> {
    let column = batch.column_by_name("_ingest_rescued").expect("always there").as_string::<i32>();
    column.is_valid(row).then(|| column.value(row).to_owned())
}

/// What one value of column `a` becomes: its text and what was rescued.
fn decode(data_type: DataType, object: &str) -> (Option<String>, Option<String>) {
    let mut decoder = one(data_type);
    decoder.object(object.as_bytes()).expect(object);
    let batch = decoder.flush().expect("a batch");
    let column = batch.column(0);
    let text = column.is_valid(0).then(|| match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(0).to_string(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(0).to_string(),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value_as_string(0),
        DataType::Date32 => column.as_primitive::<Date32Type>().value(0).to_string(),
        DataType::Boolean => column.as_boolean().value(0).to_string(),
        _ => column.as_string::<i32>().value(0).to_owned(),
    });
    (text, rescued(&batch, 0))
}

#[test]
fn values_are_exact_or_rescued_with_their_text() {
    let decimal = DataType::Decimal128(38, 2);
    let cases = [
        (DataType::Int64, r#"{"a":9007199254740993}"#, Some("9007199254740993"), None),
        (decimal.clone(), r#"{"a":9007199254740993.1}"#, Some("9007199254740993.10"), None),
        (decimal.clone(), r#"{"a":"0.10"}"#, Some("0.10"), None),
        (decimal.clone(), r#"{"a":0.123}"#, None, Some(r#"{"a":0.123}"#)),
        (decimal, r#"{"a":1e400}"#, None, Some(r#"{"a":1e400}"#)),
        (DataType::Int64, r#"{"a":18446744073709551616}"#, None, Some(r#"{"a":18446744073709551616}"#)),
        (DataType::Int64, r#"{"a":1.5}"#, None, Some(r#"{"a":1.5}"#)),
        (DataType::Int64, r#"{"a":{"b": 1}}"#, None, Some(r#"{"a":{"b":1}}"#)),
        (DataType::Float64, r#"{"a":1e400}"#, None, Some(r#"{"a":1e400}"#)),
        (DataType::Float64, r#"{"a":0.25}"#, Some("0.25"), None),
        (DataType::Boolean, r#"{"a":"yes"}"#, None, Some(r#"{"a":"yes"}"#)),
        (DataType::Boolean, r#"{"a":false}"#, Some("false"), None),
        (DataType::Date32, r#"{"a":"1970-01-02"}"#, Some("1"), None),
        (DataType::Utf8, r#"{"a":0.10}"#, Some("0.10"), None),
        (DataType::Utf8, r#"{"a":true}"#, Some("true"), None),
        (DataType::Utf8, r#"{"a":{"b": [0.10, 1]}}"#, Some(r#"{"b":[0.10,1]}"#), None),
        (DataType::Utf8, r#"{"a":"\u00e9\ud83d\ude00\u0000\n"}"#, Some("é😀\0\n"), None),
        (DataType::Utf8, r#"{"a":"\ud800"}"#, None, Some(r#"{"a":"\ud800"}"#)),
        (DataType::Utf8, r#"{"a":1,"a":2}"#, Some("2"), None),
        (DataType::Utf8, r#"{"\u0061":"escaped key"}"#, Some("escaped key"), None),
        (DataType::Utf8, r#"{"a":null,"b":null}"#, None, Some(r#"{"b":null}"#)),
        (DataType::Utf8, r#"{"\ud800":1}"#, None, Some(r#"{"\ud800":1}"#)),
        (DataType::Utf8, r#"{"b":1e400, "c\"d": [ "x y" ]}"#, None, Some(r#"{"b":1e400,"c\"d":["x y"]}"#)),
        (DataType::Utf8, "{}", None, None),
    ];
    for (data_type, object, value, rescued) in cases {
        let want = (value.map(str::to_owned), rescued.map(str::to_owned));
        assert_eq!(decode(data_type, object), want, "{object}");
    }
}

#[test]
fn json_columns_keep_the_text_of_any_value() {
    let mut decoder = Decoder::new(schema(vec![formatted("a", DataType::Utf8, "json")])).expect("a decoder");
    for object in [r#"{"a": {"x" : 0.10} }"#, r#"{"a": "text"}"#, r#"{"a": null}"#, r#"{"a":[]}"#] {
        decoder.object(object.as_bytes()).expect(object);
    }
    let batch = decoder.flush().expect("a batch");
    let column = batch.column(0).as_string::<i32>();
    let texts: Vec<_> = column.iter().collect();
    assert_eq!(texts, [Some(r#"{"x":0.10}"#), Some("\"text\""), None, Some("[]")]);
}

#[test]
fn references_give_their_id_expanded_or_not() {
    let mut decoder = Decoder::new(schema(vec![formatted("a", DataType::Utf8, "id")])).expect("a decoder");
    for object in [r#"{"a":"cus_1"}"#, r#"{"a":{"id":"cus_2","name":"N"}}"#, r#"{"a":{"name":"N"}}"#, r#"{"a":null}"#] {
        decoder.object(object.as_bytes()).expect(object);
    }
    let batch = decoder.flush().expect("a batch");
    let texts: Vec<_> = batch.column(0).as_string::<i32>().iter().collect();
    assert_eq!(texts, [Some("cus_1"), Some("cus_2"), None, None]);
    let rescued: Vec<_> = (0..4).map(|row| rescued(&batch, row)).collect();
    let object = |text: &str| Some(format!(r#"{{"a":{text}}}"#));
    assert_eq!(rescued, [None, object(r#"{"id":"cus_2","name":"N"}"#), object(r#"{"name":"N"}"#), None]);
}

#[test]
fn times_are_read_as_the_field_says() {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![formatted("created", micros.clone(), "unix_s"), Field::new("at", micros, true)];
    let mut decoder = Decoder::new(schema(fields)).expect("a decoder");
    decoder.object(br#"{"created":1700000000,"at":"2023-11-14T22:13:20Z"}"#).expect("good");
    decoder.object(br#"{"created":"soon","at":1700000000}"#).expect("rescued");
    let batch = decoder.flush().expect("a batch");
    for column in 0..2 {
        let column = batch.column(column).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(column.value(0), 1_700_000_000_000_000);
        assert!(column.is_null(1));
    }
    assert_eq!(rescued(&batch, 1).as_deref(), Some(r#"{"created":"soon","at":1700000000}"#));
}

#[test]
fn typed_lists_maps_and_structs_fit_whole_or_are_rescued_whole() {
    let entries = Field::new_struct(
        "entries",
        vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)],
        false,
    );
    let inner = vec![Field::new("city", DataType::Utf8, true), Field::new("zip", DataType::Int64, true)];
    let fields = vec![
        Field::new_list("tags", Field::new_list_field(DataType::Int64, true), true),
        Field::new("labels", DataType::Map(Arc::new(entries), false), true),
        Field::new_struct("address", inner, true),
    ];
    let mut decoder = Decoder::new(schema(fields)).expect("a decoder");
    let rows = [
        r#"{"tags":[1,null,3],"labels":{"b":"x","a":1,"b":"y"},"address":{"zip":7,"city":"Rome"}}"#,
        r#"{"tags":[1,"x"],"labels":[],"address":{"zip":"x"}}"#,
        r#"{"tags":[],"labels":{},"address":{"zip":8,"street":"new"}}"#,
        r#"{"tags":null}"#,
    ];
    for row in rows {
        decoder.object(row.as_bytes()).expect(row);
    }
    let batch = decoder.flush().expect("a batch");
    let tags = batch.column(0).as_list::<i32>();
    assert_eq!(tags.value(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(1), None, Some(3)]);
    assert!(tags.is_null(1) && tags.is_valid(2) && tags.value(2).is_empty() && tags.is_null(3));
    let labels = batch.column(1).as_map();
    let first = labels.value(0);
    assert_eq!(first.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(first.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["1", "y"]);
    assert!(labels.is_null(1));
    let address = batch.column(2).as_struct();
    assert_eq!(address.column(0).as_string::<i32>().value(0), "Rome");
    assert!(address.is_null(1) && address.is_valid(2));
    assert_eq!(rescued(&batch, 0), None);
    assert_eq!(rescued(&batch, 1).as_deref(), Some(rows[1]));
    assert_eq!(rescued(&batch, 2).as_deref(), Some(r#"{"address":{"zip":8,"street":"new"}}"#));
}

#[test]
fn pages_give_records_and_picks_wherever_they_stand() {
    let shape = PageShape::at_path(&["data", "items"])
        .pick_at("after", &["paging", "next", "after"])
        .pick("has_more")
        .pick("total")
        .pick_at("inner", &["data", "inner"]);
    let page = br#"{"paging":{"next":{"after":"c\u0041"}},"data":{"inner":7,"items":[{"a":1},{"a":2}],"x":[]},
        "has_more":true,"junk":{"items":[1]},"total":null}"#;
    let mut decoder = one(DataType::Int64);
    let envelope = decoder.page(page, &shape).expect("a page");
    assert_eq!(envelope.records, 2);
    assert_eq!(envelope.text("after").expect("a text").as_deref(), Some("cA"));
    assert_eq!(envelope.flag("has_more").expect("a flag"), Some(true));
    assert_eq!(envelope.integer("total").expect("null"), None);
    assert_eq!(envelope.integer("inner").expect("a number"), Some(7));
    assert!(envelope.flag("after").is_err());
    let envelope = decoder.page(br#"{"paging":null,"data":{"items":[]}}"#, &shape).expect("the last page");
    assert_eq!((envelope.records, envelope.raw("after")), (0, None));
    assert_eq!(decoder.page(b"\xef\xbb\xbf [{}] ", &PageShape::root()).expect("a bare list").records, 1);
    assert_eq!(decoder.rows(), 3);
}

#[test]
fn a_page_that_breaks_in_the_middle_adds_no_row() {
    let shape = PageShape::at("data");
    let mut decoder = one(DataType::Int64);
    decoder.page(br#"{"data":[{"a":1}]}"#, &shape).expect("a page");
    let broken = [
        r#"{"data":[{"a":2},{"a":3}"#,
        r#"{"data":[{"a":2},{"a":01}]}"#,
        r#"{"data":[{"a":2},{"a":tru}]}"#,
        "{\"data\":[{\"a\":2},{\"a\":\"\u{1}\"}]}",
        r#"{"data":[{"a":2}]} trailing"#,
        r#"{"data":[{"a":2}],"data":[{"a":3}]}"#,
        r#"{"data":[{"a":2},7]}"#,
        r#"{"data":"none"}"#,
        r#"{"data":null}"#,
        r#"{"items":[{"a":2}]}"#,
        "[]",
        "null",
        "",
        "<html>",
    ];
    for page in broken {
        let error = decoder.page(page.as_bytes(), &shape).expect_err(page);
        assert_eq!(error.kind(), ErrorKind::DataInvalid, "{page}");
        assert_eq!(decoder.rows(), 1, "{page}");
    }
    assert_eq!(
        decoder.page(b"{\"data\":[{\"a\":\"\xff\"}]}", &shape).expect_err("Latin-1").kind(),
        ErrorKind::DataInvalid
    );
    let batch = decoder.flush().expect("a batch");
    assert_eq!(batch.num_rows(), 1);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 1);
}

#[test]
fn errors_never_quote_the_data() {
    let mut decoder = Decoder::new(schema(vec![Field::new("a", DataType::Int64, false)])).expect("a decoder");
    let shape = PageShape::at("data");
    for page in [
        r#"{"data":"canary"}"#,
        r#""canary""#,
        r#"{"data":["canary"]}"#,
        r#"{"data":[{"a":"canary"}]}"#,
        r#"{"data":[{"a":canary}]}"#,
        r#"{"data":[{"canary":1}]}"#,
    ] {
        let error = decoder.page(page.as_bytes(), &shape).expect_err(page);
        assert!(!format!("{error:?} {error}").contains("canary"), "{error:?}");
    }
}

#[test]
fn a_required_column_without_a_value_names_the_column_and_the_record() {
    let mut decoder = Decoder::new(schema(vec![Field::new("id", DataType::Utf8, false)])).expect("a decoder");
    let error = decoder.page(br#"[{"id":"x"},{"id":null}]"#, &PageShape::root()).expect_err("null");
    assert_eq!(error.to_string(), "a record lacks a required column (column id, record 2)");
    assert_eq!(decoder.rows(), 0);
}

#[test]
fn ceilings_hold() {
    let limits = Limits { depth: 100, object_bytes: 10_000, keys: 50 };
    let decoder = || one(DataType::Utf8).with_limits(limits);
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(4_000), "]".repeat(4_000));
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(10_000));
    let wide: String = (0..51).map(|i| format!(r#""k{i}":1,"#)).collect();
    let wide = format!("{{{}}}", wide.trim_end_matches(','));
    for object in [deep, large, wide] {
        let error = decoder().object(object.as_bytes()).expect_err("beyond a ceiling");
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    }
    // Nesting a hundred thousand deep must not cost the stack either.
    let bomb = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
    assert!(one(DataType::Utf8).page(bomb.as_bytes(), &PageShape::root()).is_err());
    let bomb = format!(r#"{{"x":{bomb},"data":[]}}"#);
    assert!(one(DataType::Utf8).page(bomb.as_bytes(), &PageShape::at("data")).is_ok());
}

#[test]
fn keys_in_any_order_find_their_columns() {
    let names = ["a", "b", "c", "d"];
    let fields = names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    let mut decoder = Decoder::new(schema(fields)).expect("a decoder").taking(["url"]);
    let rows = [r#"{"d":4,"url":0,"a":1,"new":9,"b":2,"c":3}"#, r#"{"a":1,"b":2,"c":3,"d":4}"#, r#"{"c":3,"url":5}"#];
    for row in rows.iter().cycle().take(9) {
        decoder.object(row.as_bytes()).expect(row);
    }
    let batch = decoder.flush().expect("a batch");
    for row in 0..9 {
        for (i, name) in names.iter().enumerate() {
            let column = batch.column(i).as_primitive::<Int64Type>();
            let want = (row % 3 != 2 || *name == "c").then_some(i as i64 + 1);
            assert_eq!(column.is_valid(row).then(|| column.value(row)), want, "row {row}, column {name}");
        }
        assert_eq!(rescued(&batch, row).is_some(), row % 3 == 0);
    }
}

#[test]
fn records_can_be_looked_at_before_they_become_rows() {
    let mut decoder = one(DataType::Int64).taking(["lines"]);
    let mut lines = Vec::new();
    let page = br#"[{"a":1,"lines":{"data":[1]}},{"a":2}]"#;
    let envelope = decoder
        .page_with(page, &PageShape::root(), |record| {
            lines.push((record.integer("a"), record.raw("lines").map(str::to_owned)));
            Ok(())
        })
        .expect("a page");
    assert_eq!(envelope.records, 2);
    assert_eq!(lines, [(Some(1), Some(r#"{"data":[1]}"#.to_owned())), (Some(2), None)]);
    let error = decoder
        .page_with(page, &PageShape::root(), |_| Err(crate::Error::new(ErrorKind::SliceExpired, "gone")))
        .expect_err("the look fails");
    assert_eq!(error.kind(), ErrorKind::SliceExpired);
    assert_eq!(decoder.rows(), 2);
    assert_eq!(rescued(&decoder.flush().expect("a batch"), 0), None);
}

#[test]
fn absent_is_told_from_null() {
    let fields = (0..9).map(|i| Field::new(format!("c{i}"), DataType::Int64, true)).collect();
    let mut decoder = Decoder::new(schema(fields)).expect("a decoder").tracking_absent();
    let whole = r#"{"c0":1,"c1":null,"c2":1,"c3":1,"c4":1,"c5":1,"c6":1,"c7":1,"c8":1}"#;
    decoder.object(whole.as_bytes()).expect("whole");
    decoder.object(br#"{"c1":null}"#).expect("partial");
    let batch = decoder.flush().expect("a batch");
    assert_eq!(batch.schema().field(10).name(), "_ingest_absent");
    let absent = batch.column(10).as_binary::<i32>();
    assert!(absent.is_null(0));
    assert_eq!(absent.value(1), [0b1111_1101, 1]);
}

#[test]
fn a_renamed_column_is_found_and_rescued_under_the_name_of_the_source() {
    let field =
        Field::new("_id", DataType::Int64, true).with_metadata([(SOURCE_NAME.to_owned(), "Id".to_owned())].into());
    let mut decoder = Decoder::new(schema(vec![field])).expect("a decoder");
    decoder.object(br#"{"Id":1}"#).expect("fits");
    decoder.object(br#"{"Id":"x","_id":2}"#).expect("rescued");
    let batch = decoder.flush().expect("a batch");
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 1);
    assert_eq!(rescued(&batch, 1).as_deref(), Some(r#"{"Id":"x","_id":2}"#));
}

#[test]
fn a_decoder_goes_on_after_a_flush() {
    let mut decoder = one(DataType::Utf8);
    for round in 0..3 {
        for row in 0..10 {
            decoder.object(format!(r#"{{"a":"{round}-{row}"}}"#).as_bytes()).expect("a row");
        }
        assert!(decoder.bytes() > 30);
        assert_eq!(decoder.last_text("a"), Some(format!("{round}-9").as_str()));
        let batch = decoder.flush().expect("a batch");
        assert_eq!(batch.num_rows(), 10);
        assert_eq!(batch.column(0).as_string::<i32>().value(0), format!("{round}-0"));
        assert_eq!((decoder.rows(), decoder.last_text("a")), (0, None));
    }
    assert_eq!(decoder.flush().expect("an empty batch").num_rows(), 0);
}

#[test]
fn types_that_json_has_not_are_refused_at_once() {
    let error = Decoder::new(schema(vec![Field::new("a", DataType::Binary, true)])).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = Decoder::new(schema(vec![formatted("a", DataType::Int64, "unix_s")])).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
