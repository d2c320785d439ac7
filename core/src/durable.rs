//! Folders and names that survive a power cut.
//!
//! A file's bytes are made durable by flushing the file, its name by flushing the folder that holds it, and that folder's
//! own name by flushing the one above: `fsync(2)` says so of Linux.

use std::fs::{DirBuilder, File};
use std::io;
use std::path::Path;

/// Makes a folder and all that are missing above it, durably. On Unix new ones get `mode`, within what the process's mask
/// leaves of it.
///
/// Blocks on the disk.
///
/// # Errors
/// A folder that cannot be made or flushed; one that is there already is none.
pub fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    let made: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode);
    #[cfg(not(unix))]
    let _ = mode;
    builder.recursive(true).create(folder)?;
    made.into_iter().rev().filter_map(Path::parent).try_for_each(sync_folder)
}

/// Makes the names in a folder durable.
///
/// Blocks on the disk.
///
/// # Errors
/// A folder that cannot be opened or flushed.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // The folder above a relative name without a folder is where the process stands.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Other systems cannot open a folder as a file; their journal orders names by itself.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn folders_are_made_with_all_above_them_and_for_whom_they_are_meant() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("a/b/c");
        make_folder(&folder, 0o700).expect("made");
        make_folder(&folder, 0o777).expect("there already");
        for made in [&folder, &root.path().join("a")] {
            assert_eq!(made.metadata().expect("there").permissions().mode() & 0o777, 0o700);
        }
        std::fs::write(root.path().join("file"), "").expect("a file");
        assert!(make_folder(&root.path().join("file/d"), 0o700).is_err());
        sync_folder(Path::new("")).expect("where the process stands");
    }
}
