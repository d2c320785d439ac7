//! The suite passes a sound connector, and finds each mistake by the check that is about it.

use std::sync::{Arc, Mutex};

use ingest_core::{Builtin, Context, ErrorKind, Factory, Json, Source, Spec, async_trait};
use ingest_testkit::conformance::{self, Outcome, Report, Subject};
use ingest_testkit::source::{Defect, LateRows, Model, ModelConfig, ModelConnector, Reading};
use serde_json::json;

fn config(reading: Reading, defect: Option<Defect>) -> ModelConfig {
    ModelConfig {
        streams: 2,
        rows: 60,
        slices: 2,
        mark_every: 7,
        batch_rows: 4,
        reading,
        defect,
        ..ModelConfig::default()
    }
}

/// The model with everything that the suite asks for. Its second stream is empty.
fn subject_by(factory: impl Factory + 'static, model: &Model) -> Subject {
    model.truncate(1);
    let late: Arc<Mutex<Option<LateRows>>> = Arc::default();
    let model = model.clone();
    let server = model.config()["server"].clone();
    Subject::new(factory, model.config())
        .refused("wrong key", json!({"server": server, "api_key": "not-the-key"}), ErrorKind::Unauthenticated)
        .refused("no such server", json!({"server": "nowhere", "api_key": "a-key"}), ErrorKind::ConfigInvalid)
        .empty("shop.stream_1")
        .truth({
            let model = model.clone();
            move |stream| {
                let rows = model.truth(if stream.as_str().ends_with('0') { 0 } else { 1 });
                async move { rows }
            }
        })
        .change({
            let model = model.clone();
            move || {
                model.insert(0, 9);
                model.update(0, &[1, 2, 40]);
                async {}
            }
        })
        .late(
            {
                let (model, late) = (model.clone(), Arc::clone(&late));
                move || {
                    *late.lock().unwrap() = Some(model.begin(0, 2));
                    async {}
                }
            },
            move || {
                late.lock().unwrap().take().unwrap().commit();
                async {}
            },
        )
        .outage(
            {
                let model = model.clone();
                move || {
                    model.outage(true);
                    async {}
                }
            },
            {
                let model = model.clone();
                move || {
                    model.outage(false);
                    async {}
                }
            },
            {
                let model = model.clone();
                move || model.requests()
            },
        )
        .most_rows(10_000)
        .lose_log(move || {
            model.insert(0, 1);
            model.purge_log();
            async {}
        })
}

async fn report(config: ModelConfig, only: &[&str]) -> Report {
    let model = Model::new(config);
    conformance::run(subject_by(Builtin::<ModelConnector>::new(), &model).only(only)).await
}

#[tokio::test]
async fn a_sound_connector_passes_every_check() {
    for reading in [Reading::Windows, Reading::Snapshot] {
        let report = report(config(reading, None), &[]).await;
        report.assert_passed();
        for line in &report.lines {
            // The model has no required fields, no projection, no filter, no process of its own; all else is tried.
            let tried = matches!(line.outcome, Outcome::Passed) || ["S10", "R11", "R12", "F02"].contains(&line.id);
            assert!(tried, "{report}");
        }
    }
}

#[tokio::test]
async fn each_defect_is_found_by_its_check() {
    let mut missed = Vec::new();
    for (defect, id) in [
        (Defect::SkipsOnResume, "I02"),
        (Defect::RestartsOnResume, "I02"),
        (Defect::SkipsEqualCursor, "I02"),
        (Defect::MarksBeforeRows, "I02"),
        (Defect::ForgetsOnCancel, "I07"),
        (Defect::SwallowsCancel, "I08"),
        (Defect::NoMarkAtTheEnd, "I03"),
        (Defect::SeqGoesBack, "I05"),
        (Defect::RefusesRepeatedCheckpoint, "I09"),
        (Defect::StartsLateInSilence, "F07"),
        (Defect::LosesLateRows, "I06"),
        (Defect::UnstableSchema, "D05"),
        (Defect::ColumnOutsideSchema, "R02"),
        (Defect::WrongType, "R02"),
        (Defect::NullKey, "R02"),
        (Defect::NullKey, "R04"),
        (Defect::DuplicateKey, "R04"),
        (Defect::DuplicateKey, "R05"),
        (Defect::DifferentEachTime, "R06"),
        (Defect::AcceptsUnknownStream, "R07"),
        (Defect::IgnoresSelection, "D07"),
        (Defect::EmptyStreamFails, "R10"),
        (Defect::LogsKey, "S11"),
        (Defect::ErrorShowsKey, "S11"),
        (Defect::AcceptsAnyKey, "K02"),
        (Defect::WildEstimate, "R14"),
        (Defect::Panics, "R01"),
        (Defect::NeverReady, "R01"),
        (Defect::SkipsAtPageBorder, "R05"),
        (Defect::RepeatsOnResume, "I02"),
        (Defect::IgnoresCursor, "I01"),
        (Defect::OnlyFirstPage, "R05"),
        (Defect::MissesTheEnd, "R03"),
        (Defect::PanicsOnEmpty, "R10"),
        (Defect::TrustsUnsorted, "I02"),
        (Defect::PagesByOffset, "R09"),
        (Defect::RetriesInside, "F01"),
        (Defect::IntervalMovesPosition, "I10"),
        (Defect::CheckWrites, "K04"),
    ] {
        // The secrets check looks through what the others brought to light.
        let only = if id == "S11" { vec!["K02", "R01", id] } else { vec![id] };
        let report = report(config(Reading::Windows, Some(defect)), &only).await;
        if !report.failed().contains(&id) {
            missed.push(format!("{defect:?} is not found by {id}:\n{report}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[tokio::test]
async fn a_sound_connector_passes_where_the_log_forgets_what_is_confirmed() {
    let model = Model::new(ModelConfig { forget_acknowledged: true, ..config(Reading::Windows, None) });
    conformance::run(subject_by(Builtin::<ModelConnector>::new(), &model)).await.assert_passed();
    assert!(model.acknowledged() > 0);
}

#[tokio::test]
async fn batches_as_large_as_the_source_likes_are_found() {
    for (defect, found) in [(None, false), (Some(Defect::HugeBatches), true)] {
        let config = config(Reading::Windows, defect);
        let model = Model::new(ModelConfig { rows: 9_000, mark_every: 10_000, batch_rows: 10_000, ..config });
        let subject = subject_by(Builtin::<ModelConnector>::new(), &model).streams(&["*_0"]).only(&["R13"]);
        let report = conformance::run(subject).await;
        assert_eq!(matches!(report.outcome("R13"), Some(Outcome::Failed(_))), found, "{report}");
    }
}

#[tokio::test]
async fn a_stream_that_is_held_in_memory_as_a_whole_is_found() {
    for (defect, found) in [(None, false), (Some(Defect::HoldsEverything), true)] {
        let config = ModelConfig {
            rows: 192,
            slices: 1,
            batch_rows: 1,
            payload_bytes: 1 << 20,
            ..config(Reading::Windows, defect)
        };
        let model = Model::new(config);
        let subject = subject_by(Builtin::<ModelConnector>::new(), &model).streams(&["*_0"]).only(&["R15"]);
        let report = conformance::run(subject.memory_limit(128 << 20)).await;
        assert_eq!(matches!(report.outcome("R15"), Some(Outcome::Failed(_))), found, "{report}");
    }
}

#[tokio::test]
async fn a_capability_that_is_claimed_and_not_held_is_found() {
    let cases: [(&str, Change); 2] =
        [("R12", |spec| spec.capabilities.projection = true), ("R11", |spec| spec.capabilities.filter = true)];
    for (id, change) in cases {
        let model = Model::new(config(Reading::Windows, None));
        let subject = subject_by(Described { change }, &model).filtered("shop.stream_0", "id < 10", 10).only(&[id]);
        let report = conformance::run(subject).await;
        assert_eq!(report.failed(), [id], "{report}");
    }
}

#[tokio::test]
async fn a_failure_shows_what_was_sent_what_came_and_what_the_contract_says() {
    let report = report(config(Reading::Windows, Some(Defect::RestartsOnResume)), &["I02"]).await;
    let text = report.to_string();
    for part in [
        "sent:     extract {\"from\":{\"at\":{\"key\":",
        "came:     slice shop.stream_0/0 in mode full, from mark 1",
        "unknown",
        "contract: `extract` gives every row after `from`",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let key = Model::new(ModelConfig::default()).api_key();
    assert!(!text.contains(key));
}

type Change = fn(&mut Spec);

/// The model with another specification.
struct Described {
    change: Change,
}

#[async_trait]
impl Factory for Described {
    fn spec(&self) -> Spec {
        let mut spec = Builtin::<ModelConnector>::new().spec();
        (self.change)(&mut spec);
        spec
    }

    async fn open(&self, mut config: Json, context: Context) -> ingest_core::Result<Box<dyn Source>> {
        // As a connector without `deny_unknown_fields`.
        if let Some(object) = config.as_object_mut() {
            object.remove("no_such_key");
        }
        Builtin::<ModelConnector>::new().open(config, context).await
    }
}

#[tokio::test]
async fn a_specification_that_is_wrong_is_found() {
    let field = |spec: &mut Spec, name: &str| -> Option<Json> {
        Some(spec.config.as_mut()?.get_mut("properties")?.get_mut(name)?.take())
    };
    assert!(field(&mut Builtin::<ModelConnector>::new().spec(), "api_key").is_some());
    let cases: [(&str, Change); 7] = [
        ("S04", |spec| spec.config.as_mut().unwrap()["properties"]["reading"]["enum"] = json!(["windows", "windows"])),
        ("S01", |spec| spec.title.clear()),
        ("S01", |spec| spec.name = "My Model".into()),
        ("S02", |spec| drop(spec.config.as_mut().unwrap()["properties"].as_object_mut().unwrap().remove("server"))),
        ("S03", |spec| drop(spec.config.as_mut().unwrap()["properties"]["api_key"]["writeOnly"].take())),
        ("S05", |spec| drop(spec.config.as_mut().unwrap()["properties"]["rows"]["description"].take())),
        ("S07", |_| {}),
    ];
    for (id, change) in cases {
        let model = Model::new(config(Reading::Windows, None));
        let report = conformance::run(subject_by(Described { change }, &model).only(&[id])).await;
        assert!(report.failed().contains(&id), "{id}: {report}");
    }
}

#[tokio::test]
async fn a_check_without_what_it_needs_fails_until_a_reason_is_written() {
    let model = Model::new(config(Reading::Windows, None));
    let bare = Subject::new(Builtin::<ModelConnector>::new(), model.config());
    let report = conformance::run(bare).await;
    assert_eq!(report.failed(), ["K02", "R05", "R10", "I03", "I06", "R09", "F01", "F07"]);
    let Some(Outcome::Failed(why)) = report.outcome("K02") else { panic!("{report}") };
    assert!(why.contains(".refused(") && why.contains(".skip(\"K02\""), "{why}");
    let mut subject = Subject::new(Builtin::<ModelConnector>::new(), model.config());
    for id in report.failed() {
        subject = subject.skip(id, "this test is about the report");
    }
    let report = conformance::run(subject).await;
    report.assert_passed();
    assert!(report.to_string().contains("skipped K02"), "{report}");
}

#[tokio::test]
#[should_panic(expected = "there are no such checks: [\"Z99\"]")]
async fn a_skip_of_nothing_is_an_error() {
    let model = Model::new(config(Reading::Windows, None));
    conformance::run(subject_by(Builtin::<ModelConnector>::new(), &model).skip("Z99", "a typo")).await;
}
