//! Which columns a stream has: declared types first, else what a sample of its files shows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::{DataType, Field, Schema};
use futures::StreamExt;
use ingest_core::{Error, Estimate, Mode, Problem, Result, Stream};

use crate::formats::{self, Columns, SOURCE_FILE};
use crate::input::Limits;
use crate::options::{Format, StreamOptions};
use crate::source::FileSource;
use crate::store::{FileRef, Reading};

/// Files that are looked at: the oldest, the newest, and some in between.
const SAMPLED: usize = 16;
/// Files that a listing keeps of the oldest and of the newest to choose from.
const ENDS: usize = 2_048;
/// Files that are looked at together.
const TOGETHER: usize = 4;

/// Describes a stream.
pub async fn stream(files: &FileSource, options: &Arc<StreamOptions>) -> Result<Stream> {
    let listed = listed(files, options).await?;
    let (columns, faults) = look(files, options, &listed.sample).await?;
    for (path, fault) in faults {
        tracing::debug!(stream = %options.name, file = path, fault, "a file could not be looked at");
    }
    let mut fields: Vec<Field> = columns.into_iter().map(|(name, ty)| Field::new(name, ty, true)).collect();
    fields.push(Field::new(SOURCE_FILE, DataType::Utf8, true));
    Ok(Stream {
        name: options.name.as_str().into(),
        schema: Arc::new(Schema::new(fields)),
        key: Vec::new(),
        modes: vec![Mode::Incremental, Mode::Full],
        cursors: Vec::new(),
        group: None,
        estimate: Estimate { rows: None, bytes: Some(listed.bytes), calls: Some(listed.count) },
    })
}

/// What `check` finds wrong with a stream.
pub async fn problems(files: &FileSource, options: &Arc<StreamOptions>) -> Vec<Problem> {
    let name = || Some(options.name.as_str().into());
    let found = async {
        let listed = listed(files, options).await?;
        let (columns, faults) = look(files, options, &listed.sample).await?;
        Ok::<_, Error>((listed, columns, faults))
    };
    let (listed, columns, faults) = match found.await {
        Ok(found) => found,
        Err(error) => return vec![Problem::from_error(name(), &error)],
    };
    let mut problems: Vec<Problem> = listed
        .notes
        .iter()
        .map(|note| Problem::warning(name(), note, "rename it, or choose a glob that leaves it out"))
        .collect();
    if listed.count == 0 {
        problems.push(Problem::warning(name(), "no file matches", "check `path` of the stream"));
    }
    for (path, fault) in faults {
        let what = format!("{path} cannot be read: {fault}");
        problems.push(Problem::warning(name(), what, "repair or remove it; until then runs end as partial"));
    }
    for column in options.types.keys().filter(|_| listed.count > 0) {
        if !columns.iter().any(|(name, _)| name == column) {
            let what = format!("`types` names the column {column}, which no file that was looked at has");
            problems.push(Problem::warning(name(), what, "check its spelling"));
        }
    }
    problems
}

/// What a listing came to.
#[derive(Default)]
struct Listed {
    count: u64,
    bytes: u64,
    sample: Vec<FileRef>,
    notes: Vec<String>,
}

async fn listed(files: &FileSource, options: &StreamOptions) -> Result<Listed> {
    let found: Arc<Mutex<Listed>> = Arc::default();
    let filled = found.clone();
    let by_time = |file: &FileRef| (file.modified, file.path.clone());
    let notes = files
        .store
        .list(
            &options.patterns,
            Box::new(move |file| {
                if file.size == 0 {
                    return;
                }
                let mut found = filled.lock().unwrap_or_else(PoisonError::into_inner);
                found.count += 1;
                found.bytes += file.size;
                found.sample.push(file);
                // Of many files the oldest and the newest are enough to choose from.
                if found.sample.len() > 4 * ENDS {
                    found.sample.sort_by_cached_key(by_time);
                    found.sample.drain(ENDS..3 * ENDS);
                }
            }),
        )
        .await?;
    let mut listed = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    listed.sample.sort_by_cached_key(by_time);
    let sample = spread(listed.sample.len()).into_iter().filter_map(|i| listed.sample.get(i).cloned()).collect();
    Ok(Listed { sample, notes, ..listed })
}

/// Which of `count` files are looked at: a quarter at the old end, half at the new one, a quarter in between.
fn spread(count: usize) -> Vec<usize> {
    if count <= SAMPLED {
        return (0..count).collect();
    }
    let (old, new) = (SAMPLED / 4, SAMPLED / 2);
    let between = SAMPLED - old - new;
    let middle = (1..=between).map(|i| old + (count - old - new) * i / (between + 1));
    let mut chosen: Vec<usize> = (0..old).chain(middle).chain(count - new..count).collect();
    chosen.dedup();
    chosen
}

/// Looks at files. The columns of all of them in the order in which they appear, and the files that cannot be read.
async fn look(
    files: &FileSource,
    options: &Arc<StreamOptions>,
    sample: &[FileRef],
) -> Result<(Vec<(String, DataType)>, Vec<(String, String)>)> {
    let readings: Vec<Reading> = sample.iter().map(|file| files.reading(file)).collect();
    let looks = futures::stream::iter(readings).map(|reading| {
        let (options, limits) = (options.clone(), files.limits);
        async move {
            let path = reading.file.path.clone();
            let look = tokio::task::spawn_blocking(move || one(&reading, &options, limits)).await;
            (path, look)
        }
    });
    let mut looks = looks.buffered(TOGETHER);
    let (mut columns, mut faults) = (Columns::default(), Vec::new());
    while let Some((path, look)) = looks.next().await {
        match look {
            Ok(Ok(found)) => columns.join(found),
            Ok(Err(crate::store::Fault::Failed(error))) => return Err(error),
            Ok(Err(crate::store::Fault::Changed)) => {}
            Ok(Err(crate::store::Fault::Damaged(text))) => faults.push((path, text)),
            Err(_) => faults.push((path, "its decoder gave up".to_owned())),
        }
    }
    let declared: HashMap<&str, &DataType> =
        options.types.iter().map(|(name, ty)| (name.as_str(), ty.data_type())).collect();
    let mut typed: Vec<(String, DataType)> = columns
        .types()
        .into_iter()
        .map(|(name, ty)| {
            let ty = declared.get(name.as_str()).map_or(ty, |declared| (*declared).clone());
            (name, ty)
        })
        .collect();
    for (name, ty) in &options.types {
        // Before there is a file that says otherwise, the columns are those that were declared.
        if typed.iter().all(|(known, _)| known != name) {
            typed.push((name.clone(), ty.data_type().clone()));
        }
    }
    typed.retain(|(name, _)| name != SOURCE_FILE);
    Ok((typed, faults))
}

fn one(reading: &Reading, options: &StreamOptions, limits: Limits) -> Result<Columns, crate::store::Fault> {
    match options.format {
        Format::Csv | Format::Tsv => formats::csv::sample(reading, options, limits),
        Format::Ndjson => formats::json::sample_lines(reading, options, limits),
        Format::Json => formats::json::sample_document(reading, options, limits),
        Format::Xml => formats::xml::sample(reading, options, limits),
        Format::Parquet => formats::parquet::schema(reading).map(|schema| Columns::of_schema(&schema)),
        Format::Avro => formats::avro::schema(reading, options, limits).map(|schema| Columns::of_schema(&schema)),
        Format::Fixed | Format::Excel => formats::sample_records(reading, options, limits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_both_ends_and_the_middle() {
        assert_eq!(spread(3), [0, 1, 2]);
        let chosen = spread(1000);
        assert_eq!(chosen.len(), SAMPLED);
        assert_eq!((chosen[0], chosen[SAMPLED - 1]), (0, 999));
        assert!(chosen.windows(2).all(|w| w[0] < w[1]), "{chosen:?}");
        assert!(spread(17).windows(2).all(|w| w[0] < w[1]));
    }
}
