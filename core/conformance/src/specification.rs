//! Checks of what a connector says about itself, and of what it does with a configuration.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ingest_core::{ErrorKind, Json, Problem, Selection, Severity};

use super::reading::equals_truth;
use super::suite::{Suite, json};
use super::{Check, Checked, Fault, check, wrong};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "S01",
        "the specification is complete and always the same",
        "`spec` is constant and does no work; name, version, title, documentation and at least one mode are given",
        complete
    ),
    check!(
        "S02",
        "the configuration under test opens, and has no key that the schema does not know",
        "the JSON Schema of the configuration knows every key that `open` takes",
        opens
    ),
    check!(
        "S03",
        "fields that look like secrets are marked as secrets",
        "a field that holds a secret is of type `Secret`, which nothing prints",
        secrets_are_marked
    ),
    check!(
        "S04",
        "the words of a field are distinct",
        "the words of an enumeration differ from each other",
        distinct_words
    ),
    check!(
        "S05",
        "every field is described, and every reference resolves",
        "every field of the configuration has a doc comment, and every `$ref` of its schema leads somewhere",
        documented
    ),
    check!(
        "S07",
        "an unknown key is refused by its name",
        "`deny_unknown_fields`: an unknown key is ConfigInvalid and the error names it",
        unknown_key
    ),
    check!(
        "S10",
        "a missing required field is refused by its name",
        "a missing required field is ConfigInvalid and the error names it",
        missing_field
    ),
    check!(
        "K01",
        "a good configuration has no problems",
        "an empty list of `check` promises that `plan` and `extract` have the rights they need",
        good_check
    ),
    check!(
        "K02",
        "bad configurations are refused with their kind and a remedy",
        "what is refused has its kind (Unauthenticated, PermissionDenied, NotFound, …) and a hint that says what to do next",
        bad_checks
    ),
    check!(
        "K04",
        "`check` changes nothing at the source",
        "`check` changes nothing at the source",
        check_changes_nothing
    ),
];

/// After all others: it looks through everything that they saw.
pub(super) const LAST: &[Check] = &[check!(
    "S11",
    "no secret is in an error, a log, a problem, a plan, a position or a warning",
    "secrets go on the wire and nowhere else: not into errors, logs, problems, plans, positions, warnings",
    canaries
)];

async fn complete(suite: &Suite) -> Checked {
    let spec = &suite.spec;
    let name_is_right = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if spec.name.is_empty() || !spec.name.chars().all(name_is_right) {
        return wrong(format!("the name {:?} is not made of a-z, 0-9, _ and -", spec.name));
    }
    for (what, text) in [("version", &spec.version), ("title", &spec.title), ("documentation", &spec.docs)] {
        if text.trim().is_empty() {
            return wrong(format!("the {what} is empty"));
        }
    }
    if spec.capabilities.modes.is_empty() || spec.capabilities.parallel == 0 {
        return wrong("it claims no mode, or no slice at a time");
    }
    let (first, second) = (json(spec)?, json(&suite.subject.factory.spec())?);
    suite.texts.add(&first);
    if first != second {
        return wrong("two calls give two specifications");
    }
    let back: Result<ingest_core::Spec, _> = serde_json::from_str(&first);
    back.map(drop).map_err(|error| Fault::Wrong(format!("it cannot be read back from JSON: {error}")))
}

async fn opens(suite: &Suite) -> Checked {
    suite.open().await?;
    let known = properties(schema(suite)?);
    let given = suite.subject.config.as_object().map(|config| config.keys().collect::<Vec<_>>()).unwrap_or_default();
    match given.iter().find(|key| !known.iter().any(|(name, _)| name == **key)) {
        Some(key) => wrong(format!("the schema does not have the key {key:?}, and `open` takes it")),
        None => Ok(()),
    }
}

async fn secrets_are_marked(suite: &Suite) -> Checked {
    let looks_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["password", "secret", "token", "api_key", "private_key", "passphrase", "credential"]
            .iter()
            .any(|word| name == *word || name.ends_with(&format!("_{word}")) || name.starts_with(&format!("{word}_")))
            && !["_url", "_path", "_file", "_type", "_name", "_endpoint"].iter().any(|end| name.ends_with(end))
    };
    let is_text = |field: &Json| match field.get("type") {
        Some(Json::String(one)) => one == "string",
        Some(Json::Array(many)) => many.iter().any(|one| one == "string"),
        _ => false,
    };
    let open: Vec<&str> = every_property(schema(suite)?)
        .into_iter()
        .filter(|(name, field)| looks_secret(name) && is_text(field) && field.get("enum").is_none())
        .filter(|(_, field)| field.get("writeOnly") != Some(&Json::Bool(true)))
        .map(|(name, _)| name)
        .collect();
    if open.is_empty() { Ok(()) } else { wrong(format!("these should be of type Secret: {}", open.join(", "))) }
}

async fn documented(suite: &Suite) -> Checked {
    let root = schema(suite)?;
    let mut bare: Vec<&str> = every_property(root)
        .into_iter()
        .filter(|(_, field)| field.get("description").and_then(Json::as_str).is_none_or(|text| text.trim().is_empty()))
        .map(|(name, _)| name)
        .collect();
    bare.dedup();
    if !bare.is_empty() {
        return wrong(format!("these fields have no doc comment: {}", bare.join(", ")));
    }
    match references(root).into_iter().find(|reference| root.pointer(reference.trim_start_matches('#')).is_none()) {
        Some(reference) => wrong(format!("the reference {reference} leads nowhere")),
        None => Ok(()),
    }
}

async fn unknown_key(suite: &Suite) -> Checked {
    let mut config = suite.subject.config.clone();
    let Some(object) = config.as_object_mut() else { return wrong("the configuration is no object") };
    object.insert("no_such_key".into(), Json::Bool(true));
    refused_by_name(suite, config, "no_such_key").await
}

async fn missing_field(suite: &Suite) -> Checked {
    let required = schema(suite)?.get("required").and_then(Json::as_array).cloned().unwrap_or_default();
    if required.is_empty() {
        return Err(Fault::DoesNotApply("no field is required".into()));
    }
    for name in required.iter().filter_map(Json::as_str) {
        let mut config = suite.subject.config.clone();
        if let Some(object) = config.as_object_mut() {
            object.remove(name);
        }
        refused_by_name(suite, config, name).await?;
    }
    Ok(())
}

async fn refused_by_name(suite: &Suite, config: Json, name: &str) -> Checked {
    match suite.open_with(config).await? {
        Ok(_) => wrong(format!("`open` succeeds, although {name:?} should be refused")),
        Err(error) if error.kind() != ErrorKind::ConfigInvalid => {
            wrong(format!("{name:?} is refused as {}, not as ConfigInvalid", error.kind()))
        }
        Err(error) if !format!("{error:?}").contains(name) => {
            wrong(format!("the error does not name {name:?}: {error:?}"))
        }
        Err(_) => Ok(()),
    }
}

async fn good_check(suite: &Suite) -> Checked {
    let source = suite.open().await?;
    let problems = suite.ok("check", source.check(&suite.subject.selection)).await?;
    keep(suite, &problems);
    match problems.iter().find(|problem| problem.severity == Severity::Error) {
        Some(problem) => wrong(format!("`check` finds: {} ({})", problem.what, problem.remedy)),
        None => Ok(()),
    }
}

async fn check_changes_nothing(suite: &Suite) -> Checked {
    if suite.subject.truth.is_none() {
        return Err(Fault::DoesNotApply("the test does not say what the source holds".into()));
    }
    let source = suite.open().await?;
    let streams = suite.streams(source.as_ref()).await?;
    let mut before = Vec::new();
    for stream in &streams {
        before.push(suite.truth(&stream.name).await?);
    }
    suite.ok("check", source.check(&suite.subject.selection)).await?;
    for (stream, before) in streams.iter().zip(before) {
        equals_truth(stream, suite.truth(&stream.name).await?, before)?;
    }
    Ok(())
}

async fn distinct_words(suite: &Suite) -> Checked {
    for (name, field) in every_property(schema(suite)?) {
        let alternatives = ["oneOf", "anyOf"].iter().filter_map(|key| field.get(*key)).filter_map(Json::as_array);
        let constants = alternatives.flatten().filter_map(|inner| inner.get("const"));
        let listed = field.get("enum").and_then(Json::as_array).into_iter().flatten();
        let mut seen = std::collections::BTreeSet::new();
        for word in listed.chain(constants) {
            if !seen.insert(word.to_string()) {
                return wrong(format!("the field {name} has the word {word} twice"));
            }
        }
    }
    Ok(())
}

async fn bad_checks(suite: &Suite) -> Checked {
    if suite.subject.refused.is_empty() {
        return Err(Fault::Needs("refused(what, config, kind)"));
    }
    for refused in &suite.subject.refused {
        let (what, kind) = (&refused.what, refused.kind);
        let opened = suite.open_with(refused.config.clone()).await?;
        let checked = match opened {
            Ok(source) => suite.call("check", source.check(&Selection::default())).await?,
            Err(error) => Err(error),
        };
        match checked {
            Err(error) if error.kind() != kind => wrong(format!("{what}: refused as {error:?}, not as {kind}"))?,
            Err(error) if error.hint_text().is_none() => wrong(format!("{what}: the error has no hint: {error:?}"))?,
            Err(_) => {}
            Ok(problems) => {
                keep(suite, &problems);
                let Some(problem) = problems.iter().find(|problem| problem.severity == Severity::Error) else {
                    return wrong(format!("{what}: `check` finds nothing"));
                };
                if problem.exit_code != kind.exit_code() {
                    return wrong(format!(
                        "{what}: exit code {}, not {} of {kind}",
                        problem.exit_code,
                        kind.exit_code()
                    ));
                }
                if problem.what.trim().is_empty() || problem.remedy.trim().is_empty() {
                    return wrong(format!("{what}: the problem has no text or no remedy"));
                }
            }
        }
    }
    Ok(())
}

fn keep(suite: &Suite, problems: &[Problem]) {
    for problem in problems {
        suite.texts.add(&problem.what);
        suite.texts.add(&problem.remedy);
    }
}

/// The names of fields that hold secrets.
fn secret_names(schema: &Json) -> Vec<&str> {
    let all = every_property(schema).into_iter();
    all.filter(|(_, field)| field.get("writeOnly") == Some(&Json::Bool(true))).map(|(name, _)| name).collect()
}

/// A configuration as it may be shown.
pub(super) fn masked(suite: &Suite, config: &Json) -> Json {
    fn mask(value: &mut Json, names: &[&str]) {
        match value {
            Json::Object(object) => {
                for (name, value) in object {
                    if names.contains(&name.as_str()) { *value = "***".into() } else { mask(value, names) }
                }
            }
            Json::Array(list) => list.iter_mut().for_each(|value| mask(value, names)),
            _ => {}
        }
    }
    let mut shown = config.clone();
    mask(&mut shown, &suite.spec.config.as_ref().map(secret_names).unwrap_or_default());
    shown
}

async fn canaries(suite: &Suite) -> Checked {
    let marked = secret_names(schema(suite)?);
    let mut secrets = suite.subject.secrets.clone();
    for config in std::iter::once(&suite.subject.config).chain(suite.subject.refused.iter().map(|r| &r.config)) {
        collect_secrets(config, &marked, &mut secrets);
    }
    // Shorter texts occur by chance.
    secrets.retain(|secret| secret.len() >= 6);
    if secrets.is_empty() {
        return Err(Fault::DoesNotApply("the configuration holds no secret of six characters or more".into()));
    }
    let texts = suite.texts.all();
    for (nth, secret) in secrets.iter().enumerate() {
        let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let forms = [
            ("as it is", secret.clone()),
            ("in base64", BASE64_STANDARD.encode(secret)),
            ("in base64", BASE64_URL_SAFE_NO_PAD.encode(secret)),
            ("percent-encoded", url),
            ("percent-encoded", encoded),
        ];
        if let Some((form, text)) = forms.iter().find(|(_, form)| texts.contains(form.as_str())) {
            let line = texts.lines().find(|line| line.contains(text.as_str())).unwrap_or_default();
            let shown: String = line.replace(text.as_str(), "<the secret>").chars().take(300).collect();
            return wrong(format!("secret {} came out {form}: {shown}", nth + 1));
        }
    }
    Ok(())
}

/// The texts of a configuration under keys that the schema marks as secret.
fn collect_secrets(config: &Json, marked: &[&str], secrets: &mut Vec<String>) {
    match config {
        Json::Object(object) => {
            for (name, value) in object {
                match value {
                    Json::String(text) if marked.contains(&name.as_str()) => secrets.push(text.clone()),
                    inner => collect_secrets(inner, marked, secrets),
                }
            }
        }
        Json::Array(array) => array.iter().for_each(|inner| collect_secrets(inner, marked, secrets)),
        _ => {}
    }
}

fn schema(suite: &Suite) -> Result<&Json, Fault> {
    suite
        .spec
        .config
        .as_ref()
        .ok_or_else(|| Fault::Wrong("the specification has no schema of the configuration".into()))
}

/// The properties of one object of a schema, also those of its alternatives.
fn properties(schema: &Json) -> Vec<(&str, &Json)> {
    let own = schema.get("properties").and_then(Json::as_object).into_iter().flatten();
    let mut all: Vec<(&str, &Json)> = own.map(|(name, field)| (name.as_str(), field)).collect();
    for alternatives in ["oneOf", "anyOf", "allOf"] {
        let inner = schema.get(alternatives).and_then(Json::as_array).into_iter().flatten();
        all.extend(inner.flat_map(properties));
    }
    all
}

/// The properties of every object in a schema.
fn every_property(schema: &Json) -> Vec<(&str, &Json)> {
    let mut all = Vec::new();
    match schema {
        Json::Object(object) => {
            all.extend(properties(schema));
            let inner = object.iter().filter(|(name, _)| !["oneOf", "anyOf", "allOf"].contains(&name.as_str()));
            all.extend(inner.flat_map(|(name, inner)| match (name.as_str(), inner) {
                // The values of `properties` are schemas; its keys are names of fields, `properties` perhaps.
                ("properties" | "$defs", Json::Object(fields)) => fields.values().flat_map(every_property).collect(),
                _ => every_property(inner),
            }));
            for alternatives in ["oneOf", "anyOf", "allOf"] {
                for inner in object.get(alternatives).and_then(Json::as_array).into_iter().flatten() {
                    let nested = inner.get("properties").and_then(Json::as_object).into_iter().flatten();
                    all.extend(nested.flat_map(|(_, field)| every_property(field)));
                }
            }
        }
        Json::Array(array) => all.extend(array.iter().flat_map(every_property)),
        _ => {}
    }
    all
}

fn references(schema: &Json) -> Vec<&str> {
    match schema {
        Json::Object(object) => {
            let own = object.get("$ref").and_then(Json::as_str);
            own.into_iter().chain(object.values().flat_map(references)).collect()
        }
        Json::Array(array) => array.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn properties_are_found_at_every_depth() {
        let schema = json!({
            "properties": {"host": {"type": "string"}, "auth": {"oneOf": [
                {"properties": {"password": {"type": "string", "writeOnly": true}}},
                {"properties": {"key": {"properties": {"pem": {"type": "string"}}}}},
            ]}},
        });
        let mut names: Vec<&str> = every_property(&schema).into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["auth", "host", "key", "password", "pem"]);
        let mut secrets = Vec::new();
        collect_secrets(&json!({"host": "h", "auth": {"password": "canary"}}), &["password"], &mut secrets);
        assert_eq!(secrets, ["canary"]);
    }
}
