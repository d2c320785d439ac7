//! What becomes of a change of the source under each policy.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int32Array, Int64Array, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use ingest_core::ErrorKind;
use serde_json::json;

use super::super::{Conformed, Handling, SchemaChange};
use super::{Setting, batch, column, names, rescued, schema, table_of};
use crate::config::SchemaPolicy::{self, Evolve, Fail, Freeze, Rescue};

const OURS: [&str; 4] = ["_ingest_run_id", "_ingested_at", "_ingest_op", "_ingest_rescued"];

fn ids() -> ArrayRef {
    Arc::new(Int64Array::from(vec![1, 2]))
}

fn with_ours(columns: &[&'static str]) -> Vec<&'static str> {
    columns.iter().copied().chain(OURS).collect()
}

/// Freeze and fail refuse the change, and name it.
fn refused(source: &SchemaRef, table: &SchemaRef, words: &[&str]) {
    for policy in [Freeze, Fail] {
        let error = Setting::new(source).table(table).policy(policy).reconcile().err().expect("a refusal");
        assert_eq!(error.kind(), ErrorKind::SchemaChanged);
        assert_eq!(error.kind().exit_code(), 5);
        for word in words {
            assert!(error.to_string().contains(word), "{word} in {error}");
        }
        assert!(error.hint_text().expect("a hint").contains("on_schema_change: evolve"), "{error}");
    }
}

#[test]
fn same_schema_is_no_change_under_any_policy() {
    let source = schema([("id", DataType::Int64), ("name", DataType::Utf8)]);
    let table = table_of([("id", DataType::Int64), ("name", DataType::Utf8)]);
    for policy in [Evolve, Freeze, Rescue, Fail] {
        let conform = Setting::new(&source).table(&table).policy(policy).reconcile().expect("no change");
        assert_eq!(conform.storage(), &table);
        assert!(!conform.widens());
        assert_eq!(conform.changes(), []);
    }
}

#[test]
fn reordered_columns_are_no_change_under_any_policy() {
    let source = schema([("name", DataType::Utf8), ("id", DataType::Int64)]);
    let table = table_of([("id", DataType::Int64), ("name", DataType::Utf8)]);
    for policy in [Evolve, Freeze, Rescue, Fail] {
        let setting = Setting::new(&source).table(&table).policy(policy);
        let came = batch([("name", Arc::new(StringArray::from(vec!["a", "b"]))), ("id", ids())]);
        let conformed = setting.batch(came).expect("no change");
        assert_eq!(names(&conformed.batch.schema())[..2], ["id", "name"]);
        assert_eq!(column(&conformed, "id").as_primitive::<Int64Type>().values(), &[1, 2]);
    }
}

fn added(policy: SchemaPolicy) -> Conformed {
    let source = schema([("id", DataType::Int64), ("note", DataType::Utf8)]);
    let table = table_of([("id", DataType::Int64)]);
    let notes: ArrayRef = Arc::new(StringArray::from(vec![Some("x\"y"), None]));
    let setting = Setting::new(&source).table(&table).policy(policy);
    setting.batch(batch([("id", ids()), ("note", notes)])).expect("a batch")
}

#[test]
fn added_column_widens_the_table_under_evolve() {
    let conformed = added(Evolve);
    assert_eq!(names(&conformed.batch.schema()), with_ours(&["id", "note"]));
    assert_eq!(column(&conformed, "note").as_string::<i32>().value(0), "x\"y");
    assert_eq!(conformed.rescued, 0);

    let source = schema([("id", DataType::Int64), ("note", DataType::Utf8)]);
    let table = table_of([("id", DataType::Int64)]);
    let conform = Setting::new(&source).table(&table).reconcile().expect("a wider table");
    assert!(conform.widens());
    let change = SchemaChange::Added { column: "note".into(), r#type: "Utf8".into(), handling: Handling::Added };
    assert_eq!(conform.changes(), [change]);
}

#[test]
fn added_column_is_rescued_under_rescue() {
    let conformed = added(Rescue);
    assert_eq!(names(&conformed.batch.schema()), with_ours(&["id"]));
    assert_eq!(conformed.rescued, 1);
    assert_eq!(rescued(&conformed, 0), Some(json!({"note": "x\"y"})));
    assert_eq!(rescued(&conformed, 1), None);
}

#[test]
fn added_column_stops_freeze_and_fail() {
    let source = schema([("id", DataType::Int64), ("note", DataType::Utf8)]);
    refused(&source, &table_of([("id", DataType::Int64)]), &["\"note\"", "Utf8", "is new at the source"]);
}

#[test]
fn dropped_column_is_null_under_evolve_and_rescue() {
    let source = schema([("id", DataType::Int64)]);
    let table = table_of([("id", DataType::Int64), ("note", DataType::Utf8)]);
    for policy in [Evolve, Rescue] {
        let setting = Setting::new(&source).table(&table).policy(policy);
        let conform = setting.reconcile().expect("a schema");
        assert!(!conform.widens());
        assert_eq!(conform.changes(), [SchemaChange::Missing { column: "note".into(), r#type: "Utf8".into() }]);
        let conformed = setting.batch(batch([("id", ids())])).expect("a batch");
        assert_eq!(column(&conformed, "note").null_count(), 2);
        assert_eq!(conformed.rescued, 0);
    }
}

#[test]
fn dropped_column_stops_freeze_and_fail() {
    let source = schema([("id", DataType::Int64)]);
    let table = table_of([("id", DataType::Int64), ("note", DataType::Utf8)]);
    refused(&source, &table, &["\"note\"", "is gone at the source"]);
}

#[test]
fn narrower_source_type_is_widened_to_the_table() {
    let source = schema([("n", DataType::Int32)]);
    let table = table_of([("n", DataType::Int64)]);
    for policy in [Evolve, Rescue] {
        let setting = Setting::new(&source).table(&table).policy(policy);
        let conform = setting.reconcile().expect("a schema");
        let (from, to) = ("Int64".to_owned(), "Int32".to_owned());
        let handling = Handling::Widened;
        assert_eq!(conform.changes(), [SchemaChange::Retyped { column: "n".into(), from, to, handling }]);
        assert_eq!(conform.storage(), &table);
        let came: ArrayRef = Arc::new(Int32Array::from(vec![Some(i32::MIN), None]));
        let conformed = setting.batch(batch([("n", came)])).expect("a batch");
        assert_eq!(column(&conformed, "n").as_primitive::<Int64Type>().value(0), i64::from(i32::MIN));
        assert_eq!(conformed.rescued, 0);
    }
    refused(&source, &table, &["\"n\"", "is Int64 in the table", "Int32 at the source"]);
}

#[test]
fn wider_source_type_is_checked_value_by_value() {
    let source = schema([("n", DataType::Int64)]);
    let table = table_of([("n", DataType::Int32)]);
    for policy in [Evolve, Rescue] {
        let setting = Setting::new(&source).table(&table).policy(policy);
        let conform = setting.reconcile().expect("a schema");
        assert!(!conform.widens());
        assert!(matches!(conform.changes(), [SchemaChange::Retyped { handling: Handling::Checked, .. }]));
        let came: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(1 << 40), None]));
        let conformed = setting.batch(batch([("n", came)])).expect("a batch");
        let n = column(&conformed, "n").as_primitive::<Int32Type>();
        assert_eq!(n.iter().collect::<Vec<_>>(), [Some(7), None, None]);
        assert_eq!(rescued(&conformed, 1), Some(json!({"n": "1099511627776"})));
        assert_eq!(conformed.rescued, 1);
    }
    refused(&source, &table, &["\"n\"", "is Int32 in the table", "Int64 at the source"]);
}

#[test]
fn other_source_type_is_rescued_where_it_says_nothing_to_the_table() {
    let source = schema([("n", DataType::Boolean)]);
    let table = table_of([("n", DataType::Int64)]);
    for policy in [Evolve, Rescue] {
        let setting = Setting::new(&source).table(&table).policy(policy);
        let conform = setting.reconcile().expect("a schema");
        assert!(matches!(conform.changes(), [SchemaChange::Retyped { handling: Handling::Rescued, .. }]));
        let came: ArrayRef = Arc::new(arrow_array::BooleanArray::from(vec![Some(true), None]));
        let conformed = setting.batch(batch([("n", came)])).expect("a batch");
        assert_eq!(column(&conformed, "n").null_count(), 2);
        assert_eq!(rescued(&conformed, 0), Some(json!({"n": "true"})));
        assert_eq!(rescued(&conformed, 1), None);
    }
    refused(&source, &table, &["\"n\"", "is Int64 in the table", "Boolean at the source"]);
}

#[test]
fn column_renamed_by_case_keeps_the_spelling_of_the_table() {
    let source = schema([("ID", DataType::Int64)]);
    let table = table_of([("id", DataType::Int64)]);
    for policy in [Evolve, Rescue] {
        let setting = Setting::new(&source).table(&table).policy(policy);
        let conform = setting.reconcile().expect("a schema");
        assert!(!conform.widens());
        assert_eq!(conform.stored_name("ID"), Some("id"));
        let change = SchemaChange::Respelled { column: "ID".into(), stored_as: "id".into() };
        assert_eq!(conform.changes(), [change]);
        let conformed = setting.batch(batch([("ID", ids())])).expect("a batch");
        assert_eq!(column(&conformed, "id").as_primitive::<Int64Type>().values(), &[1, 2]);
    }
    refused(&source, &table, &["\"ID\"", "\"id\""]);
}

#[test]
fn all_changes_are_named_at_once() {
    let source = schema([("id", DataType::Utf8), ("new", DataType::Int64)]);
    let table = table_of([("id", DataType::Int64), ("old", DataType::Int64)]);
    refused(&source, &table, &["\"id\"", "\"new\"", "\"old\""]);
}

fn address(fields: &[(&str, DataType)]) -> DataType {
    let fields = fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    DataType::Struct(fields.collect::<Fields>())
}

#[test]
fn field_of_a_struct_is_added_under_evolve_and_rescued_under_rescue() {
    let new = address(&[("city", DataType::Utf8), ("zip", DataType::Int32)]);
    let source = schema([("address", new.clone())]);
    let table = table_of([("address", address(&[("city", DataType::Utf8), ("street", DataType::Utf8)]))]);
    let DataType::Struct(fields) = &new else { unreachable!("a struct") };
    let city: ArrayRef = Arc::new(StringArray::from(vec!["Bern", "Ulm"]));
    let zip: ArrayRef = Arc::new(Int32Array::from(vec![Some(3000), None]));
    let came: ArrayRef = Arc::new(StructArray::new(fields.clone(), vec![city, zip], None));

    let evolve = Setting::new(&source).table(&table);
    let conform = evolve.reconcile().expect("a wider table");
    assert!(conform.widens());
    assert!(conform.changes().contains(&SchemaChange::Added {
        column: "address.zip".into(),
        r#type: "Int32".into(),
        handling: Handling::Added,
    }));
    assert!(
        conform.changes().contains(&SchemaChange::Missing { column: "address.street".into(), r#type: "Utf8".into() })
    );
    let conformed = evolve.batch(batch([("address", came.clone())])).expect("a batch");
    let address = column(&conformed, "address").as_struct();
    assert_eq!(address.column_names(), ["city", "street", "zip"]);
    assert_eq!(conformed.rescued, 0);

    let conformed =
        Setting::new(&source).table(&table).policy(Rescue).batch(batch([("address", came)])).expect("a batch");
    let address = column(&conformed, "address").as_struct();
    assert_eq!(address.column_names(), ["city", "street"]);
    assert!(address.is_null(0) && address.is_valid(1));
    assert_eq!(rescued(&conformed, 0), Some(json!({"address": {"city": "Bern", "zip": 3000}})));
    assert_eq!(conformed.rescued, 1);
    refused(&source, &table, &["\"address.zip\"", "\"address.street\""]);
}

#[test]
fn first_load_is_no_change_under_any_policy() {
    let source = schema([("id", DataType::Int64)]);
    for policy in [Evolve, Freeze, Rescue, Fail] {
        let conform = Setting::new(&source).policy(policy).reconcile().expect("a new table");
        assert_eq!(names(conform.storage()), with_ours(&["id"]));
        assert!(!conform.widens());
        assert_eq!(conform.changes(), []);
    }
}

#[test]
fn schema_grows_by_steps_and_a_widened_table_stays_as_it_is() {
    let first = schema([("id", DataType::Int64)]);
    let second = schema([("note", DataType::Utf8), ("id", DataType::Int64)]);
    let table = table_of([("id", DataType::Int64)]);
    let conform = Setting::new(&second).table(&table).reconcile().expect("a wider table");
    let widened = Arc::clone(conform.storage());
    assert_eq!(names(&widened), with_ours(&["id", "note"]));
    for source in [&first, &second] {
        let conform = Setting::new(source).table(&widened).reconcile().expect("a schema");
        assert_eq!(conform.storage(), &widened);
        assert!(!conform.widens());
    }
}

#[test]
fn table_whose_new_columns_stand_behind_ours_is_left_in_its_order() {
    let mut fields: Vec<Field> =
        table_of([("id", DataType::Int64)]).fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("note", DataType::Utf8, true));
    let table: SchemaRef = Arc::new(arrow_schema::Schema::new(fields));
    let source = schema([("id", DataType::Int64), ("note", DataType::Utf8)]);
    let conform = Setting::new(&source).table(&table).policy(Fail).reconcile().expect("no change");
    assert_eq!(conform.storage(), &table);
}

#[test]
fn unannounced_column_is_rescued_or_a_bug_of_the_connector() {
    let source = schema([("id", DataType::Int64)]);
    let extra: ArrayRef = Arc::new(Int32Array::from(vec![5, 6]));
    for policy in [Evolve, Rescue] {
        let came = batch([("id", ids()), ("extra", extra.clone())]);
        let conformed = Setting::new(&source).policy(policy).batch(came).expect("a batch");
        assert_eq!(rescued(&conformed, 1), Some(json!({"extra": "6"})));
        assert_eq!(conformed.rescued, 2);
    }
    for policy in [Freeze, Fail] {
        let came = batch([("id", ids()), ("extra", extra.clone())]);
        let error = Setting::new(&source).policy(policy).batch(came).expect_err("a bug");
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        assert!(error.to_string().contains("extra"), "{error}");
    }
}

#[test]
fn unannounced_type_is_converted_or_refused() {
    let source = schema([("id", DataType::Int64)]);
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["12", "twelve"]));
    for policy in [Evolve, Rescue] {
        let conformed = Setting::new(&source).policy(policy).batch(batch([("id", texts.clone())])).expect("a batch");
        assert_eq!(column(&conformed, "id").as_primitive::<Int64Type>().value(0), 12);
        assert_eq!(rescued(&conformed, 1), Some(json!({"id": "twelve"})));
    }
    for policy in [Freeze, Fail] {
        let error = Setting::new(&source).policy(policy).batch(batch([("id", texts.clone())])).expect_err("a change");
        assert_eq!(error.kind(), ErrorKind::SchemaChanged);
        let text = error.to_string();
        assert!(text.contains("column id") && text.contains("from Int64") && text.contains("to Utf8"), "{text}");
        // Another layout of the same type is no change.
        let same: ArrayRef = Arc::new(arrow_array::UInt32Array::from(vec![1, 2]));
        Setting::new(&source).policy(policy).batch(batch([("id", same)])).expect("the same stored type");
    }
}

#[test]
fn column_of_nulls_alone_has_any_type() {
    let nulls: ArrayRef = Arc::new(arrow_array::NullArray::new(2));
    let table = table_of([("id", DataType::Int64)]);
    let (announced, unknown) = (schema([("id", DataType::Int64)]), schema([("id", DataType::Null)]));
    for policy in [Evolve, Freeze, Rescue, Fail] {
        for source in [&announced, &unknown] {
            let setting = Setting::new(source).table(&table).policy(policy);
            assert_eq!(setting.reconcile().expect("no change").changes(), []);
            let conformed = setting.batch(batch([("id", nulls.clone())])).expect("nulls");
            assert_eq!((column(&conformed, "id").null_count(), conformed.rescued), (2, 0));
        }
    }
}

#[test]
fn changes_are_told_in_words_and_as_json() {
    let change = SchemaChange::Retyped {
        column: "n".into(),
        from: "Int32".into(),
        to: "Int64".into(),
        handling: Handling::Checked,
    };
    assert_eq!(
        change.to_string(),
        "column \"n\" is Int32 in the table and Int64 at the source: values that do not fit exactly go to _ingest_rescued"
    );
    assert_eq!(
        serde_json::to_value(&change).expect("JSON"),
        json!({"change": "retyped", "column": "n", "from": "Int32", "to": "Int64", "handling": "checked"})
    );
    assert!(change.is_drift());
}
