//! Random rows through masks and checks, against a model that takes them one by one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_core::{Estimate, Json, Mode, Secret, Stream, WriteMode};
use ingest_runner::config::{Common, Policies, SourceConfig, StreamOptions};
use ingest_runner::policy::{Examiner, MaskKey, Policy, Sets};
use ingest_runner::run::RunOptions;
use ingest_testkit::source::{Model, ModelConfig};
use proptest::prelude::*;
use serde_json::json;

use crate::lake::World;

const KEY: &str = "a key for the tests of policies";

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("email", DataType::Utf8, true),
        Field::new("phone", DataType::Utf8, true),
        Field::new("born", DataType::Date32, true),
        Field::new("credit", DataType::Decimal128(12, 2), true),
        Field::new("status", DataType::Utf8, true),
    ]))
}

#[derive(Debug, Clone)]
struct Row {
    id: Option<i64>,
    email: Option<String>,
    phone: Option<String>,
    born: Option<i32>,
    credit: Option<i128>,
    status: Option<String>,
}

fn row() -> impl Strategy<Value = Row> {
    use proptest::option::of;
    let email = prop_oneof!["[a-z]{1,8}@[a-z]{1,8}", "[a-zä€😀]{0,12}"];
    (of(-5_i64..40), of(email), of("[0-9+ ]{0,14}"), of(-200_000_i32..200_000), of(-500_i128..2_000_000), of("[abc]"))
        .prop_map(|(id, email, phone, born, credit, status)| Row { id, email, phone, born, credit, status })
}

fn batch(rows: &[Row]) -> RecordBatch {
    let credit: Decimal128Array = rows.iter().map(|row| row.credit).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.email.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.phone.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.born).collect::<Date32Array>()),
        Arc::new(credit.with_precision_and_scale(12, 2).expect("fits")),
        Arc::new(rows.iter().map(|row| row.status.clone()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema(), columns).expect("a batch")
}

fn policy(options: Json) -> Arc<Policy> {
    let options: StreamOptions = serde_json::from_value(options).expect("options");
    let common = Common { mask_key: Some(Secret::new(KEY)), policies: Policies::default(), places: Arc::default() };
    let config = SourceConfig { common, ..SourceConfig::named("shop") };
    let stream = Stream {
        name: "people".into(),
        schema: schema(),
        key: vec!["id".into()],
        modes: vec![Mode::Full],
        cursors: Vec::new(),
        group: None,
        estimate: Estimate::default(),
    };
    let (policy, _) = Policy::new(&config, &stream, &options, WriteMode::Append).expect("a policy");
    Arc::new(policy)
}

/// The first day of the year of a day since 1970, by counting.
fn year_begins(day: i32) -> i32 {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut begin, mut year) = (0_i64, 1970_i64);
    let day = i64::from(day);
    while begin > day {
        year -= 1;
        begin -= 365 + i64::from(leap(year));
    }
    while begin + 365 + i64::from(leap(year)) <= day {
        begin += 365 + i64::from(leap(year));
        year += 1;
    }
    begin as i32
}

fn stars(text: &str, shown: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    let hidden = if all.len() > shown { all.len() - shown } else { all.len() };
    all.iter().enumerate().map(|(i, c)| if i < hidden { '*' } else { *c }).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn masks_and_checks_do_what_a_model_does_row_by_row(rows in proptest::collection::vec(row(), 0..60), cut in 0_usize..60) {
        let policy = policy(json!({
            "mask": {"email": "hash", "phone": {"partial": 3}, "born": {"generalize": "year"}, "credit": {"generalize": 10}, "id": "token"},
            "checks": [
                {"column": "id", "not_null": true, "on_fail": "quarantine"},
                {"column": "email", "regex": "^[^@]+@[^@]+$", "on_fail": "quarantine"},
                {"column": "credit", "range": {"min": 0, "max": "10000.00"}},
                {"column": "status", "accepted_values": ["a", "b"]},
                {"column": "phone", "length": {"min": 3}},
                {"column": "born", "range": {"min": "1900-01-01"}},
            ],
        }));
        let sets = Arc::new(Sets::new(policy.checks().len(), 1 << 20));
        let mut examiner = Examiner::new(Arc::clone(&policy), sets);
        let key = MaskKey::new(Some(&Secret::new(KEY)));
        let mut tokens = key.tokens().expect("a key");
        // Masks must not look beyond a slice of a larger batch.
        let cut = cut.min(rows.len());
        let whole = batch(&rows);
        for (part, rows) in [(whole.slice(0, cut), &rows[..cut]), (whole.slice(cut, rows.len() - cut), &rows[cut..])] {
            let examined = examiner.examine(part).expect("examined");
            let good = |row: &&Row| {
                let email = row.email.as_ref().is_none_or(|email| {
                    email.split('@').count() == 2 && email.split('@').all(|part| !part.is_empty())
                });
                row.id.is_some() && email
            };
            let kept: Vec<&Row> = rows.iter().filter(good).collect();
            prop_assert_eq!(examined.batch.num_rows(), kept.len());
            prop_assert_eq!(examined.held.len(), rows.len() - kept.len());
            let count = |fails: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| fails(row)).count() as u64;
            prop_assert_eq!(examined.tally.failed, vec![
                count(&|row| row.id.is_none()),
                count(&|row| row.email.as_ref().is_some_and(|e| e.split('@').count() != 2 || e.split('@').any(str::is_empty))),
                count(&|row| row.credit.is_some_and(|credit| !(0..=1_000_000).contains(&credit))),
                count(&|row| row.status.as_ref().is_some_and(|status| status == "c")),
                count(&|row| row.phone.as_ref().is_some_and(|phone| phone.len() < 3)),
                count(&|row| row.born.is_some_and(|born| born < -25_567)),
            ]);
            let masked = &examined.batch;
            let ids = masked.column_by_name("id").expect("id").as_string::<i32>();
            let emails = masked.column_by_name("email").expect("email").as_string::<i32>();
            let phones = masked.column_by_name("phone").expect("phone").as_string::<i32>();
            let births = masked.column_by_name("born").expect("born").as_primitive::<Date32Type>();
            for (i, row) in kept.iter().enumerate() {
                prop_assert_eq!(tokens.reveal(ids.value(i)).expect("ours"), row.id.expect("kept").to_string());
                let email = row.email.as_ref().map(|email| hex(&key.hash(email.as_bytes())));
                prop_assert_eq!(emails.is_valid(i).then(|| emails.value(i).to_owned()), email);
                let phone = row.phone.as_ref().map(|phone| stars(phone, 3));
                prop_assert_eq!(phones.is_valid(i).then(|| phones.value(i).to_owned()), phone);
                prop_assert_eq!(births.is_valid(i).then(|| births.value(i)), row.born.map(year_begins));
            }
            for held in &examined.held {
                for email in rows.iter().filter_map(|row| row.email.as_ref()).filter(|email| email.len() > 5) {
                    prop_assert!(!held.record.contains(email.as_str()), "a held row is masked: {}", held.record);
                }
            }
        }
    }

    #[test]
    fn rows_are_unique_within_a_run_and_a_row_that_is_read_again_is_not_its_own_double(
        ids in proptest::collection::vec(proptest::option::of(0_i64..20), 1..40),
        cut in 1_usize..40,
    ) {
        let policy = policy(json!({"checks": [{"column": "id", "unique": true, "on_fail": "quarantine"}]}));
        let mut sets = Sets::new(1, 1 << 20);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(sets.begin_seen(0, None, None)).expect("begun");
        let mut examiner = Examiner::new(policy, Arc::new(sets));
        let rows: Vec<Row> = ids
            .iter()
            .map(|id| Row { id: *id, email: None, phone: None, born: None, credit: None, status: None })
            .collect();
        let cut = cut.min(rows.len());
        // A slice that fails before its mark is read again.
        let lost = examiner.examine(batch(&rows[..cut])).expect("examined");
        examiner.forget(&lost.tally);
        let mut kept: Vec<Option<i64>> = Vec::new();
        for part in [&rows[..cut], &rows[cut..]] {
            let examined = examiner.examine(batch(part)).expect("examined");
            kept.extend(examined.batch.column(0).as_primitive::<Int64Type>().iter());
        }
        let mut seen = HashSet::new();
        let model: Vec<Option<i64>> = ids.into_iter().filter(|id| id.is_none_or(|id| seen.insert(id))).collect();
        prop_assert_eq!(kept, model);
    }
}

#[test]
fn masks_reach_into_structs_and_lists_and_what_a_connector_has_rescued() {
    use arrow_array::StructArray;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("clear one"), None]);
    let address = StructArray::from(vec![
        (Arc::new(Field::new("zip", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["12345"])) as ArrayRef),
        (Arc::new(Field::new("town", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["T"])) as ArrayRef),
    ]);
    let batch = RecordBatch::try_from_iter([
        ("tags", Arc::new(tags.finish()) as ArrayRef),
        ("address", Arc::new(address) as ArrayRef),
        (
            "_ingest_rescued",
            Arc::new(StringArray::from(vec![r#"{"address":"12345 clear","age":"clear","x":1.50}"#])) as ArrayRef,
        ),
    ])
    .expect("a batch");
    let options: StreamOptions =
        serde_json::from_value(json!({"mask": {"tags": "redact", "address.zip": {"partial": 2}, "a*e": "hash"}}))
            .expect("options");
    let fields: Vec<_> = batch.schema().fields().iter().take(2).cloned().collect();
    let stream = Stream {
        name: "t".into(),
        schema: Arc::new(Schema::new(fields)),
        key: Vec::new(),
        modes: vec![Mode::Full],
        cursors: Vec::new(),
        group: None,
        estimate: Estimate::default(),
    };
    let (policy, schema) =
        Policy::new(&SourceConfig::named("s"), &stream, &options, WriteMode::Append).expect("a policy");
    let masked = policy.mask_batch(&batch).expect("masked");
    let text =
        arrow::util::pretty::pretty_format_batches(std::slice::from_ref(&masked)).expect("printable").to_string();
    assert!(
        !text.contains("clear") && text.contains("***45") && text.contains("town: T") && text.contains("1.50"),
        "{text}"
    );
    let announced = policy.masked_schema(&schema).expect("a schema");
    for field in announced.fields() {
        assert_eq!(masked.schema().field_with_name(field.name()).expect("there").data_type(), field.data_type());
    }
    let bent = RecordBatch::try_from_iter([("address", Arc::new(StringArray::from(vec!["12345 clear"])) as ArrayRef)]);
    let refused = policy.mask_batch(&bent.expect("a batch")).expect_err("the struct came as a text");
    assert_eq!(refused.kind(), ingest_core::ErrorKind::SchemaChanged);
    let masks: BTreeMap<String, String> =
        policy.masked_columns(&schema).expect("masks").into_iter().map(|column| (column.path, column.mask)).collect();
    assert_eq!(masks.get("address.zip").map(String::as_str), Some("partial: 2"));
}

fn options(options: Json) -> StreamOptions {
    serde_json::from_value(options).expect("options")
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_of_a_masked_cursor_are_hidden_where_they_are_shown() {
    let model = Model::new(ModelConfig { rows: 500, ..ModelConfig::default() });
    let world = World::new(model).with(options(json!({"mode": "incremental", "mask": {"changed": "hash"}})));
    let report = world.run("one", &RunOptions::default()).await;
    assert_eq!((report.exit_code, report.rows_written), (0, 500), "{report:#?}");
    let session = world.session("look").await;
    let author = world.author(&session);
    let shown = ingest_runner::state::show(&author, &"shop.stream_0".into()).await.expect("read");
    let mut shown = shown.expect("a checkpoint");
    let digits = |checkpoint: &ingest_catalog::Checkpoint| {
        checkpoint.positions.values().any(|stored| stored.at.to_string().contains(|c: char| c.is_ascii_digit()))
    };
    assert!(digits(&shown), "a run needs the values");
    ingest_runner::state::mask_positions(&author.documents, &mut shown).await.expect("masked");
    assert!(!digits(&shown), "{shown:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_compared_with_the_runs_before_it_and_with_the_clock() {
    let model = Model::new(ModelConfig { rows: 400, ..ModelConfig::default() });
    let checks = json!({"mode": "full", "checks": [
        {"volume": "50%", "on_fail": "fail"},
        {"column": "at", "freshness": "1h"},
        {"column": "at", "freshness": "36500d", "name": "a century"},
    ]});
    let world = World::new(model).with(options(checks));
    for run in ["one", "two", "three"] {
        let report = world.run(run, &RunOptions::default()).await;
        assert_eq!(report.exit_code, 0, "{report:#?}");
        let outcomes: Vec<&str> = report.streams[0].checks.iter().map(|check| check.outcome.as_str()).collect();
        assert_eq!(outcomes, ["passed", "warned", "passed"], "{report:#?}");
    }
    world.model.insert(0, 2_000);
    let report = world.run("four", &RunOptions::default()).await;
    assert_eq!(report.exit_code, 5, "{report:#?}");
    assert_eq!(report.streams[0].checks[0].outcome, "failed");
    assert_eq!(world.ids(0).await.len(), 400, "the table is as before");
}

#[test]
fn what_a_partial_row_lacks_is_still_told_when_a_column_is_dropped() {
    let policy = policy(json!({"mask": {"email": "drop"}}));
    let row = Row { id: Some(1), email: None, phone: None, born: None, credit: None, status: Some("a".into()) };
    let whole = batch(&[row.clone(), row]);
    // Of six columns the second and the third did not come.
    let absent = arrow_array::BinaryArray::from(vec![Some(&[0b110_u8][..]), None]);
    let absent_field = Arc::new(ingest_core::columns::field("_ingest_absent"));
    let fields: Vec<_> = schema().fields().iter().cloned().chain([absent_field]).collect();
    let columns = whole.columns().iter().cloned().chain([Arc::new(absent) as ArrayRef]).collect();
    let partial = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch");
    let masked = policy.mask_batch(&partial).expect("masked");
    let bits = masked.column_by_name("_ingest_absent").expect("bits").as_binary::<i32>();
    assert_eq!((bits.value(0), bits.is_null(1)), (&[0b10_u8][..], true), "of five columns the second did not come");
}
