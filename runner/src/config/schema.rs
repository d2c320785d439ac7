//! JSON Schemas of the configuration: what the loader validates against, and what `ingest config schema` prints.

use ingest_core::config::ByteSize;
use ingest_core::{Json, JsonSchema, Spec};
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Map, json};

use super::{LakeConfig, Policies, Schedule, StreamOptions};

/// Keys of a source that are the runner's; all others are its connector's.
pub const RUNNERS_KEYS: [&str; 4] = ["connector", "streams", "schedule", "defaults"];
/// Below this, not even one batch and one open file fit.
pub const LEAST_MEMORY: ByteSize = ByteSize(32 << 20);

/// Whether a name says that its value is not to be shown, whatever a schema says.
pub fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let words =
        ["secret", "password", "passwd", "token", "credential", "api_key", "apikey", "private_key", "access_key"];
    let public = ["_url", "_uri", "_path", "_type", "endpoint", "access_key_id", "allow_http"];
    words.iter().any(|word| key.contains(word)) && !public.iter().any(|word| key.ends_with(word))
}

fn of<T: JsonSchema>() -> Json {
    let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    generator.into_root_schema_for::<T>().into()
}

/// The schema of `lake`.
pub fn lake() -> Json {
    of::<LakeConfig>()
}

/// The schema of `memory`.
pub fn memory() -> Json {
    of::<ByteSize>()
}

/// The schema of `policies`.
pub fn policies() -> Json {
    of::<Policies>()
}

/// The schema of `mask_key`.
pub fn mask_key() -> Json {
    let about = "The key of the masks `hash` and `token`: a long random text, the same for all sources, from a secret: \
        `${MASK_KEY}`. Left out, `hash` is plain SHA-256, which can be guessed, and `token` is refused.";
    json!({"type": "string", "minLength": 1, "writeOnly": true, "description": about})
}

/// The schema of the options of a stream.
pub fn stream_options() -> Json {
    of::<StreamOptions>()
}

/// The schema of a text.
pub fn text() -> Json {
    json!({"type": "string", "minLength": 1})
}

/// The schema of a source's `schedule`.
pub fn schedule() -> Json {
    of::<Schedule>()
}

/// The schema of a connector's own fields; unknown keys are refused even where its struct forgot to say so.
pub fn fields(spec: &Spec) -> Json {
    let mut schema = spec.config.clone().unwrap_or_else(|| json!({"type": "object"}));
    let open = schema.get("properties").is_some() && schema.get("unevaluatedProperties").is_none();
    if let Some(object) = schema.as_object_mut().filter(|_| open) {
        object.entry("additionalProperties").or_insert(false.into());
    }
    schema
}

/// A value of a configuration struct as JSON.
pub fn as_json<T: Serialize>(value: &T) -> Json {
    serde_json::to_value(value).unwrap_or(Json::Null)
}

/// The word of an enum of the configuration.
pub fn word<T: Serialize>(value: &T) -> String {
    as_json(value).as_str().unwrap_or_default().to_owned()
}

/// The schema of a whole file with these connectors, for editors.
pub fn whole(specs: &[Spec]) -> Json {
    let by_name: Map<String, Json> = specs.iter().map(|spec| (spec.name.clone(), source(spec, false))).collect();
    // Of a plug-in that is named by its path nothing is known here.
    let by_path = json!({"type": "object", "required": ["connector"], "properties": {"connector": {"pattern": "/"}}});
    let any: Vec<Json> = specs.iter().map(|spec| source(spec, true)).chain([by_path]).collect();
    let mut lake = lake();
    if let Some(lake) = lake.as_object_mut() {
        lake.remove("$schema");
        lake.insert("description".into(), "Where rows go, and how.".into());
    }
    let mut policies = policies();
    if let Some(policies) = policies.as_object_mut() {
        policies.remove("$schema");
        policies.remove("title");
        policies.insert("description".into(), "What holds for every source.".into());
    }
    let mut memory = memory();
    if let Some(memory) = memory.as_object_mut() {
        memory.remove("$schema");
        memory.insert("default".into(), super::load::DEFAULT_MEMORY.to_string().into());
        let text = "The memory of a run: reading, encoding and merging together.";
        memory.insert("description".into(), text.into());
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ingest.yaml",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "lake": lake,
            "memory": memory,
            "mask_key": mask_key(),
            "policies": policies,
            "sources": {
                "description": "Configured instances of connectors, by name.",
                "type": "object",
                "properties": by_name,
                "additionalProperties": {"oneOf": any},
            },
        },
    })
}

/// The schema of a source: the fields of its connector, and the runner's keys.
pub fn source(spec: &Spec, named: bool) -> Json {
    let mut schema = fields(spec);
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("$schema");
    object.insert("title".into(), spec.title.clone().into());
    let mut options = stream_options();
    if let Some(options) = options.as_object_mut() {
        options.remove("$schema");
        options.insert("type".into(), json!(["object", "null"]));
    }
    if let Some(properties) = object.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
        let about = "The connector; left out, the source's name is the connector's name.";
        properties.insert("connector".into(), json!({"const": spec.name, "description": about}));
        let about = "Stream names or globs with their options. Left out or empty: every stream.";
        properties.insert(
            "streams".into(),
            json!({"type": ["object", "null"], "additionalProperties": options, "description": about}),
        );
        if let Some(options) = options.as_object_mut() {
            options.insert("description".into(), "Options for every stream that does not say otherwise.".into());
        }
        properties.insert("defaults".into(), options);
        let mut schedule = schedule();
        if let Some(schedule) = schedule.as_object_mut() {
            schedule.remove("$schema");
        }
        properties.insert("schedule".into(), schedule);
    }
    if named {
        let required = object.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut() {
            required.push("connector".into());
        }
    }
    schema
}
