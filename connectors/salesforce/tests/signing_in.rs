//! Ways to sign in, where the token leads, and what `check` says.

use ingest_core::{ErrorKind, Mode, Selection, Severity};
use ingest_testkit::hostile::assert_shows_nothing;
use ingest_testkit::lake::Lake;
use ingest_testkit::salesforce::{CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN};
use serde_json::{Value, json};

use crate::harness::{DAY, Lab, MINUTE, open};

fn jwt(lab: &Lab, pem: &str) -> Value {
    json!({"client_id": CLIENT_ID, "username": "user@example.com", "private_key": pem, "endpoint": lab.server.url()})
}

#[tokio::test]
async fn stand_in_takes_a_secret_a_refresh_token_and_a_signed_statement() {
    let lab = Lab::start().await;
    // Statements hold for minutes of the machine's own clock.
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    lab.server.freeze(now);
    lab.server.seed("Account", 10, now - DAY, now - 10 * MINUTE);
    let (pem, key) = ingest_testkit::certificates::rsa_key();
    lab.server.state().key = Some(key);
    let refresh = json!({"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "refresh_token": REFRESH_TOKEN,
        "endpoint": lab.server.url()});
    for config in [lab.config(json!({})), refresh, jwt(&lab, &pem)] {
        let mut lake = Lake::new(1);
        lake.run(open(config).await.unwrap().as_ref(), &["Account"], Mode::Incremental).await.unwrap();
        assert_eq!(lake.rows("Account").len(), 10);
    }
    let grants: Vec<_> = lab.server.exchanges().iter().map(|request| request.form()["grant_type"].clone()).collect();
    assert_eq!(grants, ["client_credentials", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"]);
    assert!(lab.server.http().requests().iter().all(|request| !request.query.contains("canary")));
}

#[tokio::test]
async fn stand_in_refuses_wrong_credentials_once_with_the_way_they_are_to_be() {
    let lab = Lab::start().await;
    let (pem, _) = ingest_testkit::certificates::rsa_key();
    let wrong = json!({"client_secret": "canary-wrong"});
    let revoked = json!({"refresh_token": "canary-revoked"});
    for (config, hint) in [
        (lab.config(wrong), "integration user"),
        (lab.config(revoked), "refresh token"),
        (jwt(&lab, &pem), "pre-authorised"),
    ] {
        let before = lab.server.http().hits();
        let source = open(config).await.unwrap();
        let problems = source.check(&Selection::default()).await.unwrap();
        assert_eq!((problems.len(), problems[0].exit_code), (1, 3), "{problems:?}");
        assert!(problems[0].remedy.contains(hint), "{problems:?}");
        // Most often a sandbox's app is taken to production, or the other way round.
        assert!(problems[0].remedy.contains("sandbox"), "{problems:?}");
        assert!(!format!("{problems:?}").contains("canary"));
        assert_eq!(lab.server.http().hits() - before, 1, "asked once");
    }
}

#[tokio::test]
async fn a_private_key_that_is_none_is_refused_at_once_and_not_shown() {
    let lab = Lab::start().await;
    let error = open(jwt(&lab, "canary")).await.err().expect("no key");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert_shows_nothing(&error, "canary");
}

#[tokio::test]
async fn stand_in_that_rotates_refresh_tokens_is_told_before_the_next_run_cannot_sign_in() {
    let lab = Lab::start().await;
    lab.server.state().rotates = true;
    let source = lab.open_with(json!({"refresh_token": REFRESH_TOKEN})).await.unwrap();
    let error = Lake::new(1).run(source.as_ref(), &["Account"], Mode::Full).await.expect_err("a new token");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.hint_text().unwrap().contains("rotation"));
    assert_shows_nothing(&error, "canary-of-the-next-run");
}

#[tokio::test]
async fn stand_in_whose_version_of_the_api_has_ended_says_so() {
    let lab = Lab::start().await;
    lab.server.state().ended = true;
    let problems = lab.open().await.check(&Selection::default()).await.unwrap();
    assert_eq!((problems.len(), problems[0].exit_code), (1, 2), "{problems:?}");
    assert!(problems[0].remedy.contains("api_version"), "{problems:?}");
    let error = Lake::new(1).run(lab.open().await.as_ref(), &["Account"], Mode::Full).await.expect_err("ended");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error:?}");
}

#[tokio::test]
async fn stand_in_that_names_an_instance_elsewhere_gets_no_request_there() {
    let lab = Lab::start().await;
    for instance in ["https://evil.example.net", "http://acme.my.salesforce.com", "https://salesforce.com.evil.example"]
    {
        lab.server.state().instance = Some(instance.to_owned());
        let source = lab.open().await;
        let error = Lake::new(1).run(source.as_ref(), &["Account"], Mode::Full).await.expect_err(instance);
        assert_eq!(error.kind(), ErrorKind::DataInvalid, "{instance}: {error:?}");
        assert!(lab.server.calls().is_empty());
    }
}

#[tokio::test]
async fn stand_in_hidden_fields_formulas_and_a_used_up_budget_are_warnings_one_by_one() {
    let lab = Lab::start().await;
    lab.server.state().hide("Account", "AnnualRevenue");
    lab.server.state().hide("Account", "Name");
    lab.server.state().usage = (950, 1_000);
    let source = lab.open_with(json!({"daily_share": 1.0})).await.unwrap();
    let selection = Selection { select: vec!["Account".into(), "Invoice__c".into()], exclude: vec![] };
    let problems = source.check(&selection).await.unwrap();
    assert!(problems.iter().all(|problem| problem.severity == Severity::Warning));
    let texts: Vec<String> = problems.into_iter().map(|problem| problem.what).collect();
    for part in ["951", "Name is hidden", "AnnualRevenue is hidden", "formula"] {
        assert!(texts.iter().any(|text| text.contains(part)), "{part}: {texts:?}");
    }
    assert_eq!(texts.len(), 4, "{texts:?}");
}
