//! The values of a database as the server itself prints them, in the form that the documented mapping gives them.
//!
//! For each type there are two expressions of SQL: the canonical JSON (see [`ingest_testkit::oracle`]) of a value that has
//! a place in its column, and whether it has one. What has none is null, and the server's text of it is rescued.

use std::collections::HashMap;
use std::fmt::Write;

use ingest_testkit::postgres::Database;
use serde_json::{Map, Value};

/// The column in which [`Relation::rows`] gives what was rescued.
pub const RESCUED: &str = "what was rescued";

/// Two expressions of SQL about a value.
struct Forms {
    /// Its canonical JSON.
    value: String,
    /// Whether it has a place in its column; true where it is null.
    fits: String,
}

struct Type {
    name: String,
    kind: String,
    /// The type of the elements of an array, of the bounds of a range, of the ranges of a multirange; of a domain its base.
    inner: Option<u32>,
    modifier: i32,
    /// The fields of a composite type: name, type, modifier.
    fields: Vec<(String, u32, i32)>,
}

/// The types of a database, by number.
pub struct Types(HashMap<u32, Type>);

impl Types {
    pub async fn of(database: &Database) -> Self {
        let sql = "SELECT t.oid, t.typname::text, CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 AND t.typtype = 'b' THEN 'a' ELSE t.typtype::text END, \
            CASE t.typtype WHEN 'd' THEN t.typbasetype WHEN 'r' THEN r.rngsubtype WHEN 'm' THEN m.rngtypid ELSE nullif(t.typelem, 0) END, t.typtypmod \
            FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid LEFT JOIN pg_range m ON m.rngmultitypid = t.oid";
        let mut types = HashMap::new();
        for row in database.client.query(sql, &[]).await.expect("valid SQL") {
            let one =
                Type { name: row.get(1), kind: row.get(2), inner: row.get(3), modifier: row.get(4), fields: vec![] };
            types.insert(row.get::<_, u32>(0), one);
        }
        let sql = "SELECT c.reltype, a.attname::text, a.atttypid, a.atttypmod FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
            WHERE c.relkind = 'c' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.oid, a.attnum";
        for row in database.client.query(sql, &[]).await.expect("valid SQL") {
            let owner = types.get_mut(&row.get::<_, u32>(0)).expect("a composite type");
            owner.fields.push((row.get(1), row.get(2), row.get(3)));
        }
        Self(types)
    }

    fn forms(&self, number: u32, modifier: i32, v: &str, depth: usize) -> Forms {
        let one = &self.0[&number];
        let inner = || one.inner.expect("a type of types");
        match one.kind.as_str() {
            "d" => self.forms(inner(), one.modifier, v, depth),
            "a" => self.array(inner(), modifier, v, depth),
            "c" => self.composite(one, v, depth),
            "r" => self.range(inner(), v, depth),
            "m" => {
                let each = self.forms(inner(), -1, &format!("r{depth}"), depth + 1);
                nested(v, &each, &format!("unnest({v}) WITH ORDINALITY AS u{depth}(r{depth}, i{depth})"), depth)
            }
            _ => scalar(&one.name, modifier, v),
        }
    }

    fn array(&self, element: u32, modifier: i32, v: &str, depth: usize) -> Forms {
        let each = self.forms(element, modifier, &format!("({v})[i{depth}]"), depth + 1);
        let mut forms = nested(v, &each, &format!("generate_subscripts({v}, 1) AS i{depth}"), depth);
        forms.fits = format!("(coalesce(array_ndims({v}), 1) = 1 AND {})", forms.fits);
        forms
    }

    fn composite(&self, one: &Type, v: &str, depth: usize) -> Forms {
        let (mut fields, mut fits) = (Vec::new(), vec!["true".to_owned()]);
        for (name, number, modifier) in &one.fields {
            let field = self.forms(*number, *modifier, &format!("({v}).{}", quoted(name)), depth);
            fields.push(format!("{}, {}", literal(name), field.value));
            fits.push(field.fits);
        }
        Forms {
            value: format!("CASE WHEN {v} IS DISTINCT FROM NULL THEN json_build_object({}) END", fields.join(", ")),
            fits: format!("({})", fits.join(" AND ")),
        }
    }

    fn range(&self, bound: u32, v: &str, depth: usize) -> Forms {
        let lower = self.forms(bound, -1, &format!("lower({v})"), depth);
        let upper = self.forms(bound, -1, &format!("upper({v})"), depth);
        Forms {
            value: format!(
                "CASE WHEN {v} IS NOT NULL THEN json_build_object('lower', {}, 'upper', {}, 'lower_inc', lower_inc({v}), \
                 'upper_inc', upper_inc({v}), 'empty', isempty({v})) END",
                lower.value, upper.value
            ),
            fits: format!("({} AND {})", lower.fits, upper.fits),
        }
    }
}

/// The forms of a list of values that `from` gives, with their place as `i`.
fn nested(v: &str, each: &Forms, from: &str, depth: usize) -> Forms {
    Forms {
        value: format!(
            "CASE WHEN {v} IS NOT NULL THEN coalesce((SELECT json_agg({} ORDER BY i{depth}) FROM {from}), '[]') END",
            each.value
        ),
        fits: format!("NOT EXISTS (SELECT FROM {from} WHERE NOT {})", each.fits),
    }
}

fn scalar(name: &str, modifier: i32, v: &str) -> Forms {
    const DAY: &str = "YYYY-MM-DD";
    const MOMENT: &str = "YYYY-MM-DD\"T\"HH24:MI:SS.US";
    let instant = |pattern: &str| {
        let fits = format!("coalesce(isfinite({v}) AND {v} >= '0001-01-01' AND {v} < '10000-01-01', true)");
        (format!("to_char({v}, '{pattern}')"), fits)
    };
    let always = |value: String| (value, "true".to_owned());
    let (value, fits) = match name {
        "bool" | "int2" | "int4" | "int8" => always(v.to_owned()),
        "oid" => always(format!("({v})::int8")),
        "float4" | "float8" => always(format!("({v})::float8")),
        // Precision and scale stand in the modifier; without one, or above 38 digits, it is a text.
        "numeric" if modifier >= 4 && (modifier - 4) >> 16 <= 38 => {
            (format!("({v})::text"), format!("coalesce({v} <> 'NaN', true)"))
        }
        "money" => always(format!("({v})::numeric::text")),
        "date" => instant(DAY),
        "timestamp" => instant(MOMENT),
        "timestamptz" => instant(&format!("{MOMENT}\"Z\"")),
        "time" => always(format!("(extract(epoch FROM {v}) * 1000000)::int8")),
        "bytea" => always(format!("translate(encode({v}, 'base64'), E'\\n', '')")),
        // The cast to text drops the blanks that the type has, and the mask of a host that `inet` shows.
        "bpchar" => always(format!("rpad({v}, {})", modifier - 4)),
        "inet" => always(format!("CASE WHEN {v} IS NOT NULL THEN format('%s', {v}) END")),
        "hstore" => always(format!(
            "CASE WHEN {v} IS NOT NULL THEN coalesce((SELECT json_agg(json_build_array(h.key, h.value) ORDER BY octet_length(h.key), \
             convert_to(h.key, 'UTF8')) \
             FROM each({v}) h), '[]') END"
        )),
        _ => always(format!("({v})::text")),
    };
    Forms { value, fits }
}

/// A table, view or materialized view that must be in the lake.
pub struct Relation {
    /// Schema and name, as the stream is called.
    pub stream: String,
    from: String,
    columns: Vec<(String, u32, i32)>,
    key: Vec<String>,
}

impl Relation {
    /// All relations that are not partitions and not part of an extension.
    pub async fn all(database: &Database) -> Vec<Self> {
        let sql = "SELECT n.nspname::text, c.relname::text, a.attname::text, a.atttypid, a.atttypmod, \
              coalesce(a.attnum = ANY (k.indkey), false) \
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
            LEFT JOIN pg_index k ON k.indrelid = c.oid AND k.indisprimary \
            WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND c.relkind IN ('r', 'p', 'v', 'm') \
              AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2, a.attnum";
        let mut relations: Vec<Self> = Vec::new();
        for row in database.client.query(sql, &[]).await.expect("valid SQL") {
            let (schema, name): (String, String) = (row.get(0), row.get(1));
            let from = format!("{}.{}", quoted(&schema), quoted(&name));
            if relations.last().is_none_or(|last| last.from != from) {
                let stream = format!("{schema}.{name}");
                relations.push(Self { stream, from, columns: Vec::new(), key: Vec::new() });
            }
            let relation = relations.last_mut().expect("one was pushed");
            relation.columns.push((row.get(2), row.get(3), row.get(4)));
            if row.get(5) {
                relation.key.push(row.get(2));
            }
        }
        relations
    }

    /// The columns that tell rows apart: the primary key, or all.
    pub fn key(&self) -> Vec<String> {
        let all = || self.columns.iter().map(|(name, ..)| stored(name)).collect();
        if self.key.is_empty() { all() } else { self.key.iter().map(|name| stored(name)).collect() }
    }

    /// The columns as the copy calls them, in their order.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(name, ..)| stored(name)).collect()
    }

    /// Whether a primary key tells rows apart.
    pub fn is_keyed(&self) -> bool {
        !self.key.is_empty()
    }

    /// The rows that the copy must have.
    pub async fn rows(&self, database: &Database, types: &Types) -> Vec<Map<String, Value>> {
        let (mut values, mut rescued) = (Vec::new(), Vec::new());
        for (name, number, modifier) in &self.columns {
            let v = format!("t.{}", quoted(name));
            let Forms { value, fits } = types.forms(*number, *modifier, &v, 0);
            values.push(format!("{}, CASE WHEN {fits} THEN {value} END", literal(&stored(name))));
            if fits != "true" {
                rescued.push(format!("{}, CASE WHEN NOT {fits} THEN {v}::text END", literal(name)));
            }
        }
        let mut sql = format!("SELECT json_build_object({}, {}, ", values.join(", "), literal(RESCUED));
        write!(sql, "json_strip_nulls(json_build_object({})))::text FROM {} t", rescued.join(", "), self.from)
            .expect("to memory");
        let settings = "SET TimeZone TO 'UTC'; SET IntervalStyle TO 'iso_8601'; SET DateStyle TO 'ISO'; SET extra_float_digits TO 3";
        database.client.batch_execute(settings).await.expect("valid SQL");
        let rows = database.client.query(&sql, &[]).await.unwrap_or_else(|e| panic!("{}: {e}: {sql}", self.stream));
        rows.iter().map(|row| plain(serde_json::from_str(row.get(0)).expect("an object"))).collect()
    }
}

/// One way to write each number: `1` and `1.0` are the same, `0` and `-0.0` are not. Objects are sorted by name.
pub fn plain(row: Map<String, Value>) -> Map<String, Value> {
    let mut members: Vec<(String, Value)> = row.into_iter().map(|(name, value)| (name, same(value))).collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members.into_iter().collect()
}

fn same(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(same).collect(),
        Value::Object(members) => Value::Object(plain(members)),
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) if float == 0.0 && float.is_sign_negative() => "-0".into(),
            // Whole numbers of a size that every float has exactly.
            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => format!("{float}").parse().unwrap(),
            _ => Value::Number(number),
        },
        other => other,
    }
}

/// The name of a column in the lake: the source's spelling, unless it holds a character that Delta tables forbid; then the
/// rule of folders.
fn stored(name: &str) -> String {
    if name.contains(|c| " ,;{}()\n\t=".contains(c)) { super::folder(name) } else { name.to_owned() }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
