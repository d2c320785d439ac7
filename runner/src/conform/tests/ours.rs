//! Columns of ours, names, and the shapes of batches.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, DictionaryArray, Int64Array, LargeStringArray, RecordBatch, RecordBatchOptions,
    StringArray,
};
use arrow_schema::{DataType, Schema, SchemaRef};
use ingest_core::ErrorKind;
use ingest_core::columns::{ABSENT, INGESTED_AT, OP, RESCUED, RUN_ID, SEQ};
use serde_json::json;

use super::super::{SchemaChange, Stamp};
use super::{MICROS, Setting, batch, column, names, rescued, rescued_text, schema, stamp, table_of};
use crate::config::SchemaPolicy::{Fail, Freeze};

fn ids() -> ArrayRef {
    Arc::new(Int64Array::from(vec![1, 2, 3]))
}

fn texts(values: Vec<Option<&str>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

#[test]
fn every_row_is_stamped() {
    let source = schema([("id", DataType::Int64)]);
    let conform = Setting::new(&source).reconcile().expect("a schema");
    for _ in 0..2 {
        let conformed = conform.batch(batch([("id", ids())]), &stamp()).expect("a batch");
        assert_eq!(names(&conformed.batch.schema()), ["id", RUN_ID, INGESTED_AT, OP, RESCUED]);
        assert!(column(&conformed, RUN_ID).as_string::<i32>().iter().all(|id| id == Some("run-1")));
        assert_eq!(column(&conformed, INGESTED_AT).data_type(), &DataType::Timestamp(MICROS, Some("UTC".into())));
        let at = column(&conformed, INGESTED_AT).as_primitive::<TimestampMicrosecondType>();
        assert!(at.iter().all(|at| at == Some(stamp().ingested_at)));
        assert!(column(&conformed, OP).as_string::<i32>().iter().all(|op| op == Some("R")));
        assert_eq!(column(&conformed, RESCUED).null_count(), 3);
    }
    // Another stamp and another length are not taken from what is kept.
    let other = Stamp { run_id: "run-2".into(), ingested_at: 5 };
    let conformed = conform.batch(batch([("id", ids().slice(1, 1))]), &other).expect("a batch");
    assert_eq!(column(&conformed, RUN_ID).as_string::<i32>().value(0), "run-2");
    assert_eq!(column(&conformed, INGESTED_AT).as_primitive::<TimestampMicrosecondType>().value(0), 5);
    assert_eq!(conformed.batch.num_rows(), 1);
}

#[test]
fn equal_arrays_pass_without_a_copy_and_constants_are_kept() {
    let source = schema([("id", DataType::Int64)]);
    let conform = Setting::new(&source).reconcile().expect("a schema");
    let id = ids();
    let first = conform.batch(batch([("id", id.clone())]), &stamp()).expect("a batch");
    let second = conform.batch(batch([("id", id.clone())]), &stamp()).expect("a batch");
    assert!(Arc::ptr_eq(column(&first, "id"), &id));
    for name in [RUN_ID, INGESTED_AT, OP, RESCUED] {
        assert!(Arc::ptr_eq(column(&first, name), column(&second, name)), "{name}");
    }
}

#[test]
fn op_seq_and_absent_of_the_connector_are_used() {
    let source = schema([("id", DataType::Int64), ("name", DataType::Utf8)]);
    let setting = Setting { seq: true, absent: true, ..Setting::new(&source) };
    let bits: ArrayRef = Arc::new(BinaryArray::from(vec![None, Some(&[2_u8][..]), None]));
    let conformed = setting
        .batch(batch([
            (OP, texts(vec![Some("I"), None, Some("D")])),
            ("id", ids()),
            (SEQ, texts(vec![Some("01"), Some("02"), Some("03")])),
            (ABSENT, bits),
        ]))
        .expect("a batch");
    assert_eq!(names(&conformed.batch.schema()), ["id", "name", RUN_ID, INGESTED_AT, OP, SEQ, ABSENT, RESCUED]);
    let ops: Vec<_> = column(&conformed, OP).as_string::<i32>().iter().flatten().collect();
    assert_eq!(ops, ["I", "R", "D"]);
    assert_eq!(column(&conformed, SEQ).as_string::<i32>().value(2), "03");
    assert_eq!(column(&conformed, ABSENT).as_binary::<i32>().value(1), [2]);
    assert_eq!(conformed.rescued, 0);
}

#[test]
fn reserved_columns_may_come_in_other_layouts_of_text() {
    let source = schema([("id", DataType::Int64)]);
    let setting = Setting { seq: true, ..Setting::new(&source) };
    let ops: DictionaryArray<Int32Type> = vec!["I", "I", "U"].into_iter().collect();
    let seqs: ArrayRef = Arc::new(LargeStringArray::from(vec!["1", "2", "3"]));
    let conformed = setting.batch(batch([("id", ids()), (OP, Arc::new(ops)), (SEQ, seqs)])).expect("a batch");
    assert_eq!(column(&conformed, OP).as_string::<i32>().value(2), "U");
    assert_eq!(column(&conformed, SEQ).as_string::<i32>().value(0), "1");
    let error = setting.batch(batch([("id", ids()), (OP, ids())])).expect_err("a number is no operation");
    assert_eq!(error.kind(), ErrorKind::Unexpected);
}

#[test]
fn seq_of_a_stream_that_needs_none_is_left_out() {
    let source = schema([("id", DataType::Int64)]);
    let came = batch([("id", ids()), (SEQ, texts(vec![Some("1"), Some("2"), Some("3")]))]);
    let conformed = Setting::new(&source).batch(came).expect("a batch");
    assert!(conformed.batch.column_by_name(SEQ).is_none());
}

#[test]
fn partial_rows_are_refused_where_the_table_cannot_mark_them() {
    let source = schema([("id", DataType::Int64)]);
    let partial: ArrayRef = Arc::new(BinaryArray::from(vec![None, Some(&[1_u8][..]), None]));
    let error = Setting::new(&source).batch(batch([("id", ids()), (ABSENT, partial)])).expect_err("hidden");
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    let whole: ArrayRef = Arc::new(BinaryArray::from(vec![None::<&[u8]>; 3]));
    Setting::new(&source).batch(batch([("id", ids()), (ABSENT, whole)])).expect("whole rows");
}

#[test]
fn absent_bits_follow_the_columns_of_the_table() {
    let source = schema([("c", DataType::Int64), ("a", DataType::Int64)]);
    let table = {
        let first = schema([("a", DataType::Int64), ("b", DataType::Int64)]);
        let setting = Setting { absent: true, ..Setting::new(&first) };
        Arc::clone(setting.reconcile().expect("a schema").storage())
    };
    let setting = Setting { absent: true, ..Setting::new(&source) }.table(&table);
    let bits: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&[0b01_u8][..]), Some(&[0b10][..]), None]));
    let conformed = setting.batch(batch([("c", ids()), ("a", ids()), (ABSENT, bits)])).expect("a batch");
    assert_eq!(names(&conformed.batch.schema())[..3], ["a", "b", "c"]);
    let bits = column(&conformed, ABSENT).as_binary::<i32>();
    assert_eq!((bits.value(0), bits.value(1)), (&[0b100_u8][..], &[0b001_u8][..]));
    assert!(bits.is_null(2));
}

#[test]
fn columns_that_are_ours_alone_are_a_bug_of_the_connector() {
    let source = schema([("id", DataType::Int64)]);
    for name in [RUN_ID, INGESTED_AT, "_ingest_other"] {
        let error = Setting::new(&source).batch(batch([("id", ids()), (name, ids())])).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{name}");
    }
}

#[test]
fn columns_can_be_switched_off() {
    let source = schema([("id", DataType::Int64)]);
    let setting = Setting::new(&source).without(RUN_ID).without(OP);
    let conformed = setting.batch(batch([("id", ids())])).expect("a batch");
    assert_eq!(names(&conformed.batch.schema()), ["id", INGESTED_AT, RESCUED]);
    // Where the table has the column already, it stays and is null.
    let table = table_of([("id", DataType::Int64)]);
    let setting = Setting::new(&source).without(RUN_ID).table(&table);
    let conformed = setting.batch(batch([("id", ids())])).expect("a batch");
    assert_eq!(conformed.batch.schema(), table);
    assert_eq!(column(&conformed, RUN_ID).null_count(), 3);
}

#[test]
fn column_switched_on_later_widens_the_table_under_every_policy() {
    let source = schema([("id", DataType::Int64)]);
    let table = {
        let setting = Setting::new(&source).without(RUN_ID);
        Arc::clone(setting.reconcile().expect("a schema").storage())
    };
    for policy in [Freeze, Fail] {
        let conform = Setting::new(&source).table(&table).policy(policy).reconcile().expect("our own column");
        assert!(conform.widens());
        assert_eq!(names(conform.storage()), ["id", INGESTED_AT, OP, RESCUED, RUN_ID]);
        assert_eq!(conform.changes(), []);
    }
}

#[test]
fn unknown_added_column_is_a_configuration_error_with_the_nearest_name() {
    let source = schema([("id", DataType::Int64)]);
    let error = Setting::new(&source).without("_ingest_runid").reconcile().err().expect("an error");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.hint_text().expect("a hint").contains(RUN_ID));
    let error = Setting::new(&source).without("banana").reconcile().err().expect("an error");
    assert!(error.hint_text().expect("a hint").contains(INGESTED_AT));
}

#[test]
fn rescuing_without_a_column_for_it_is_an_error_and_no_loss() {
    let source = schema([("n", DataType::Int64)]);
    let table = {
        let first = schema([("n", DataType::Int32)]);
        let setting = Setting::new(&first).without(RESCUED);
        Arc::clone(setting.reconcile().expect("a schema").storage())
    };
    let setting = Setting::new(&source).table(&table).without(RESCUED);
    setting.batch(batch([("n", ids())])).expect("small numbers fit");
    let large: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
    let error = setting.batch(batch([("n", large)])).expect_err("nowhere to go");
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(error.to_string().contains("columns n"), "{error}");
}

#[test]
fn table_with_a_foreign_column_of_our_name_is_refused() {
    let source = schema([("id", DataType::Int64)]);
    let table = schema([("id", DataType::Int64), (OP, DataType::Int64)]);
    let error = Setting::new(&source).table(&table).reconcile().err().expect("a foreign table");
    assert_eq!(error.kind(), ErrorKind::SchemaChanged);
    assert!(error.to_string().contains(OP), "{error}");
}

#[test]
fn what_the_connector_rescued_is_kept_letter_by_letter_and_joined_by_ours() {
    let source = schema([("n", DataType::Int64)]);
    let table = table_of([("n", DataType::Int32)]);
    let setting = Setting::new(&source).table(&table);
    let given = texts(vec![Some(r#"{"x": 1.10, "big": 9007199254740993 }"#), Some(" { } "), None]);
    let n: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX, 1]));
    let conformed = setting.batch(batch([("n", n), (RESCUED, given)])).expect("a batch");
    assert_eq!(conformed.rescued, 2);
    assert_eq!(
        rescued_text(&conformed, 0).expect("rescued"),
        r#"{"x": 1.10, "big": 9007199254740993,"n":"9223372036854775807"}"#
    );
    assert_eq!(rescued(&conformed, 1), Some(json!({"n": "9223372036854775807"})));
    assert_eq!(rescued(&conformed, 2), None);
}

#[test]
fn rescued_object_of_the_connector_passes_where_there_is_nothing_to_add() {
    let source = schema([("n", DataType::Int64)]);
    let given = texts(vec![None, Some(r#"{"x":1}"#), None]);
    let conformed = Setting::new(&source).batch(batch([("n", ids()), (RESCUED, given.clone())])).expect("a batch");
    assert!(Arc::ptr_eq(column(&conformed, RESCUED), &given));
    assert_eq!(conformed.rescued, 1);
}

#[test]
fn a_key_that_the_connector_has_taken_is_not_overwritten() {
    let source = schema([("n", DataType::Int64)]);
    let table = table_of([("n", DataType::Int32)]);
    let given = texts(vec![Some(r#"{"n":1,"n_":2}"#)]);
    let n: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
    let conformed = Setting::new(&source).table(&table).batch(batch([("n", n), (RESCUED, given)])).expect("a batch");
    assert_eq!(rescued(&conformed, 0), Some(json!({"n": 1, "n_": 2, "n__": "9223372036854775807"})));
}

#[test]
fn rescued_text_that_is_no_object_is_a_bug_of_the_connector() {
    let source = schema([("n", DataType::Int64)]);
    let table = table_of([("n", DataType::Int32)]);
    for text in ["[1]", "", "{", "null", "{\"a\":1}x"] {
        let n: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
        let came = batch([("n", n), (RESCUED, texts(vec![Some(text)]))]);
        let error = Setting::new(&source).table(&table).batch(came).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{text}");
    }
}

#[test]
fn odd_names_are_kept_or_changed_by_the_rule_of_tables() {
    let long = "x".repeat(300);
    let odd = ["Ünï", "a.b", "a-b", "select", "1st", "名前", "a\"b", "a'b", "a/b", "%", long.as_str()];
    for name in odd {
        let source = schema([(name, DataType::Int64)]);
        let conformed = Setting::new(&source).batch(batch([(name, ids())])).expect(name);
        assert_eq!(conformed.batch.schema().field(0).name(), name);
    }
    let source = schema([("Order Total (EUR)", DataType::Int64)]);
    let setting = Setting::new(&source);
    let conform = setting.reconcile().expect("a schema");
    let stored_as = "order_total__eur_".to_owned();
    assert_eq!(conform.stored_name("Order Total (EUR)"), Some(stored_as.as_str()));
    let change = SchemaChange::Renamed { column: "Order Total (EUR)".into(), stored_as };
    assert!(!change.is_drift());
    assert_eq!(conform.changes(), [change]);
    let conformed = setting.batch(batch([("Order Total (EUR)", ids())])).expect("a batch");
    assert_eq!(column(&conformed, "order_total__eur_").as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    // The table knows the name: no change under the strictest policy.
    let table = Arc::clone(conform.storage());
    Setting::new(&source).table(&table).policy(Fail).reconcile().expect("no change");
}

#[test]
fn rescued_values_are_named_as_the_source_names_them() {
    let source = schema([("Order No", DataType::Int64)]);
    let table = table_of([("order_no", DataType::Int32)]);
    let n: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
    let conformed = Setting::new(&source).table(&table).batch(batch([("Order No", n)])).expect("a batch");
    assert_eq!(rescued(&conformed, 0), Some(json!({"Order No": "9223372036854775807"})));
}

#[test]
fn names_that_clash_are_a_plan_error_that_names_both() {
    for (a, b) in [("id", "ID"), ("a b", "a_b"), ("a b", "A;B"), ("Straße", "straße"), ("É", "é")] {
        let source = schema([(a, DataType::Int64), (b, DataType::Int64)]);
        let error = Setting::new(&source).reconcile().err().expect("a clash");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(a) && error.to_string().contains(b), "{error}");
    }
}

#[test]
fn names_of_ours_and_empty_names_are_a_plan_error() {
    for name in [RUN_ID, "_INGEST_op", "_ingested_at", "_ingest rescued", "_ingest_anything", ""] {
        let source = schema([(name, DataType::Int64)]);
        let error = Setting::new(&source).reconcile().err().expect(name);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{name}");
        assert!(error.hint_text().expect("a hint").contains("columns"));
    }
}

#[test]
fn subset_of_columns_in_any_order_is_filled_up_with_null() {
    let source = schema([("a", DataType::Int64), ("b", DataType::Utf8), ("c", DataType::Date32)]);
    let setting = Setting::new(&source);
    let conform = setting.reconcile().expect("a schema");
    let came = batch([("b", texts(vec![Some("x"), None, Some("z")])), ("a", ids())]);
    let conformed = conform.batch(came, &stamp()).expect("a batch");
    assert_eq!(conformed.batch.schema(), *conform.storage());
    assert_eq!(column(&conformed, "c").null_count(), 3);
    assert_eq!(column(&conformed, "b").as_string::<i32>().value(2), "z");
    // The next batch may look different.
    let conformed = conform.batch(batch([("c", Arc::new(arrow_array::Date32Array::from(vec![1])))]), &stamp());
    assert_eq!(column(&conformed.expect("a batch"), "a").null_count(), 1);
}

#[test]
fn batch_with_two_columns_of_one_name_is_a_bug_of_the_connector() {
    let source = schema([("a", DataType::Int64)]);
    let error = Setting::new(&source).batch(batch([("a", ids()), ("a", ids())])).expect_err("two of a name");
    assert_eq!(error.kind(), ErrorKind::Unexpected);
}

#[test]
fn zero_rows_and_zero_columns_work() {
    let source = schema([("a", DataType::Int64), ("d", DataType::Date32)]);
    let none: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
    let conformed = Setting::new(&source).batch(batch([("a", none)])).expect("no rows");
    assert_eq!((conformed.batch.num_rows(), conformed.rescued), (0, 0));

    let empty: SchemaRef = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(2));
    let rows = RecordBatch::try_new_with_options(Arc::clone(&empty), vec![], &options).expect("two empty rows");
    let conformed = Setting::new(&empty).batch(rows).expect("columns of ours");
    assert_eq!(names(&conformed.batch.schema()), [RUN_ID, INGESTED_AT, OP, RESCUED]);
    assert_eq!(conformed.batch.num_rows(), 2);

    let all_off = [RUN_ID, INGESTED_AT, OP, RESCUED].iter().fold(Setting::new(&empty), |s, name| s.without(name));
    assert_eq!(all_off.reconcile().err().expect("no columns").kind(), ErrorKind::ConfigInvalid);
}

#[test]
fn wide_schema_of_two_thousand_columns_works() {
    let fields: Vec<_> =
        (0..2_000).map(|i| arrow_schema::Field::new(format!("c{i}"), DataType::Int64, false)).collect();
    let source: SchemaRef = Arc::new(Schema::new(fields));
    let arrays = vec![ids(); 2_000];
    let came = RecordBatch::try_new(Arc::clone(&source), arrays).expect("a wide batch");
    let conformed = Setting::new(&source).batch(came).expect("a wide batch");
    assert_eq!(conformed.batch.num_columns(), 2_004);
}

#[test]
fn not_null_column_of_the_source_may_be_null_in_the_table() {
    let fields = vec![arrow_schema::Field::new("a", DataType::Int64, false)];
    let source: SchemaRef = Arc::new(Schema::new(fields));
    let came: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(1)]));
    let conformed = Setting::new(&source).batch(batch([("a", came)])).expect("a null");
    assert!(conformed.batch.schema().field(0).is_nullable());
}
