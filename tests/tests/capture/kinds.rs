//! The types of each database, with random values of them.

use super::load::Kind;
use crate::survive::chance;
use ingest_testkit::mysql::Flavour;

fn int(seed: &mut u64) -> String {
    (chance(seed, 200) as i64 - 100).to_string()
}

fn unsigned(seed: &mut u64) -> String {
    chance(seed, 60_000).to_string()
}

/// Every float has these values exactly.
fn float(seed: &mut u64) -> String {
    format!("{}", (chance(seed, 8_000) as f64 - 4_000.0) / 8.0)
}

fn decimal(seed: &mut u64) -> String {
    format!("{}.{:03}", chance(seed, 900_000) as i64 - 450_000, chance(seed, 1_000))
}

fn long_decimal(seed: &mut u64) -> String {
    format!("{}.{:05}", "9".repeat(20 + chance(seed, 10) as usize), chance(seed, 100_000))
}

fn day(seed: &mut u64) -> String {
    format!("{:04}-{:02}-{:02}", 1900 + chance(seed, 300), 1 + chance(seed, 12), 1 + chance(seed, 28))
}

fn clock(seed: &mut u64) -> String {
    format!("{:02}:{:02}:{:02}", chance(seed, 24), chance(seed, 60), chance(seed, 60))
}

fn date(seed: &mut u64) -> String {
    format!("'{}'", day(seed))
}

fn time(seed: &mut u64) -> String {
    format!("'{}'", clock(seed))
}

fn moment(seed: &mut u64) -> String {
    format!("'{} {}.{:06}'", day(seed), clock(seed), chance(seed, 1_000_000))
}

fn text(seed: &mut u64) -> String {
    let words = ["", "plain", "O''Hara", "Zoë", "日本", "😀", "two\nlines", "\"quoted\"", "tab\there", "  blanks  "];
    let word = |seed: &mut u64| words[chance(seed, words.len() as u64) as usize];
    format!("'{}{}'", word(seed), word(seed))
}

fn short(seed: &mut u64) -> String {
    format!("'é{}'", chance(seed, 100))
}

/// Beyond what lies in the row itself.
fn large(seed: &mut u64) -> String {
    let mut text = String::from("'");
    for _ in 0..chance(seed, 300) {
        text.push_str(&format!("{:016x}", chance(seed, u64::MAX)));
    }
    text + "'"
}

fn bits(seed: &mut u64) -> String {
    format!("{:05b}", chance(seed, 32))
}

fn document(seed: &mut u64) -> String {
    format!("'{{\"k\": {}, \"list\": [true, null, \"é\"], \"deep\": {{\"x\": \"{}\"}}}}'", int(seed), chance(seed, 9))
}

fn uuid(seed: &mut u64) -> String {
    format!("'{:08x}-0000-4000-8000-{:012x}'", chance(seed, 1 << 32), chance(seed, 1 << 48))
}

fn label(seed: &mut u64) -> String {
    ["'good'", "'bad'", "'so''so'"][chance(seed, 3) as usize].to_owned()
}

pub fn postgres() -> Vec<Kind> {
    let kind = |sql, value: fn(&mut u64) -> String| Kind { sql, value, shown: "" };
    vec![
        kind("boolean", |seed| ["true", "false"][chance(seed, 2) as usize].into()),
        kind("smallint", int),
        kind("integer", int),
        kind("bigint", |seed| format!("{}", i64::MIN + chance(seed, 1 << 60) as i64)),
        kind("real", float),
        kind("double precision", float),
        kind("numeric(12,3)", decimal),
        kind("numeric", |seed| if chance(seed, 5) == 0 { "'NaN'".into() } else { long_decimal(seed) }),
        kind("numeric(45,5)", long_decimal),
        kind("money", |seed| format!("({})::numeric::money", decimal(seed))),
        kind("date", |seed| if chance(seed, 9) == 0 { "'infinity'".into() } else { date(seed) }),
        kind("timestamp", moment),
        kind("timestamptz", |seed| if chance(seed, 9) == 0 { "'-infinity'".into() } else { moment(seed) }),
        kind("time", time),
        kind("timetz", time),
        kind("interval", |seed| format!("'{} months {} days {}'", int(seed), int(seed), clock(seed))),
        kind("text", text),
        kind("varchar(40)", text),
        kind("char(5)", short),
        kind("bytea", |seed| format!("decode('{:016x}', 'hex')", chance(seed, u64::MAX))),
        kind("uuid", uuid),
        kind("json", document),
        kind("jsonb", document),
        kind("int[]", |seed| format!("ARRAY[{}, NULL, {}]", int(seed), int(seed))),
        kind("text[]", |seed| format!("ARRAY[{}, NULL]::text[]", text(seed))),
        kind("int4range", |seed| format!("int4range({0}, {0} + 5)", int(seed))),
        kind("inet", |seed| format!("'10.1.{}.3/24'", chance(seed, 200))),
        kind("bit(5)", |seed| format!("B'{}'", bits(seed))),
        kind("point", |seed| format!("point({}, {})", float(seed), float(seed))),
        kind("mood", label),
        kind("price", decimal),
        kind("pair", |seed| format!("ROW({}, {})::pair", int(seed), text(seed))),
        kind("text /* out of line */", large),
        kind("xml", |seed| format!("'<a>{}</a>'", chance(seed, 100))),
    ]
}

pub fn mariadb() -> Vec<Kind> {
    let mut kinds = mysql_kinds();
    kinds.push(Kind { sql: "uuid", value: uuid, shown: "{}" });
    kinds.push(Kind { sql: "inet6", value: |seed| format!("'2001:db8::{:x}'", 1 + chance(seed, 999)), shown: "{}" });
    kinds
}

pub fn mysql() -> Vec<Kind> {
    mysql_kinds()
}

/// The types of a server of this family.
pub fn of(flavour: Flavour) -> fn() -> Vec<Kind> {
    match flavour {
        Flavour::MariaDb => mariadb,
        Flavour::Mysql => mysql,
    }
}

fn mysql_kinds() -> Vec<Kind> {
    const BASE64: &str = "REPLACE(TO_BASE64({}), '\\n', '')";
    let kind = |sql, value: fn(&mut u64) -> String, shown| Kind { sql, value, shown };
    let hex = |seed: &mut u64| format!("X'{:08X}'", chance(seed, 1 << 32));
    vec![
        kind("tinyint", int, "{}"),
        kind("smallint unsigned", unsigned, "{}"),
        kind("mediumint", int, "{}"),
        kind("int unsigned", |seed| (4_294_967_295 - chance(seed, 1_000)).to_string(), "{}"),
        kind("bigint", |seed| format!("{}", i64::MIN + chance(seed, 1 << 60) as i64), "{}"),
        kind("bigint unsigned", |seed| format!("{}", u64::MAX - chance(seed, 1 << 60)), "{}"),
        // The server shows six digits of it.
        kind("float", float, "{} + 0e0"),
        kind("double", float, "{}"),
        kind("decimal(12,3)", decimal, "{}"),
        kind("decimal(65,20)", long_decimal, "{}"),
        kind("bit(1)", |seed| format!("b'{}'", chance(seed, 2)), "{} + 0"),
        kind("date", date, "{}"),
        kind("datetime(6)", moment, "DATE_FORMAT({}, '%Y-%m-%dT%H:%i:%s.%f')"),
        kind(
            "timestamp(3)",
            |seed| format!("'20{:02}-06-15 {}.{:03}'", chance(seed, 35), clock(seed), chance(seed, 1_000)),
            "DATE_FORMAT({}, '%Y-%m-%dT%H:%i:%s.%fZ')",
        ),
        kind(
            "time",
            |seed| format!("'-{:02}:00:{:02}'", chance(seed, 800), chance(seed, 60)),
            "TIME_TO_SEC({}) * 1000000",
        ),
        kind("year", |seed| (1950 + chance(seed, 150)).to_string(), "{}"),
        kind("char(5)", short, "{}"),
        kind("varchar(40) CHARACTER SET latin1", short, "{}"),
        kind("varchar(60)", text, "{}"),
        kind("text", text, "{}"),
        kind("longtext", large, "{}"),
        kind("enum('good','bad','so''so')", label, "{}"),
        kind("set('x','y','z')", |seed| ["''", "'x'", "'x,z'"][chance(seed, 3) as usize].into(), "{}"),
        kind("binary(4)", hex, BASE64),
        kind("varbinary(20)", hex, BASE64),
        kind("blob", hex, BASE64),
        kind("json", document, "{}"),
        kind(
            "point",
            |seed| format!("ST_GeomFromText('POINT({} {})')", float(seed), float(seed)),
            "REPLACE(TO_BASE64(ST_AsWKB({})), '\\n', '')",
        ),
    ]
}
