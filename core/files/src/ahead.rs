//! Bytes that are fetched before they are asked for, so that the line works while what came is decoded.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use ingest_core::Error;
use tokio::runtime::Handle;

use crate::store::Fault;

/// Bytes of a piece at most.
const PIECE: usize = 512 << 10;
/// Pieces that wait to be taken at most.
const PIECES: usize = 4;
/// Bytes below which nothing is gained by a thread.
const WORTH: u64 = (PIECES * PIECE) as u64;

/// Reads what `left` bytes of a file remain on a thread of its own, at most 3 MiB ahead of whoever takes them; little is read as
/// it is. For stores whose bytes come over a blocking connection.
///
/// Errors come in their place behind the bytes before them. Dropped, it ends the thread with the read that is under way.
pub fn ahead(mut read: Box<dyn Read + Send>, left: u64, handle: &Handle) -> Box<dyn Read + Send> {
    if left < WORTH {
        return read;
    }
    let (send, pieces) = sync_channel(PIECES);
    let (give_back, used) = channel();
    handle.spawn_blocking(move || fetch(&mut read, &send, &used));
    Box::new(Ahead { pieces, give_back, piece: Vec::new(), at: 0, is_done: false })
}

/// Reads until the end, an error, or nobody listens any more. The end is an empty piece: a thread that dies is not one.
fn fetch(read: &mut dyn Read, send: &SyncSender<io::Result<Vec<u8>>>, used: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = used.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let (count, failed) = fill(read, &mut piece);
        piece.truncate(count);
        let is_last = count == 0;
        if (failed.is_none() || count > 0) && send.send(Ok(piece)).is_err() {
            return;
        }
        if let Some(error) = failed {
            // Nobody listens any more, or hears it as the last thing.
            drop(send.send(Err(error)));
            return;
        }
        if is_last {
            return;
        }
    }
}

/// Fills a piece, as far as there is something before the end or an error: a line gives as little as has arrived.
fn fill(read: &mut dyn Read, piece: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut count = 0;
    while count < piece.len() {
        match read.read(piece.get_mut(count..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (count, Some(error)),
        }
    }
    (count, None)
}

struct Ahead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// Pieces that were taken are filled again: fresh memory would cost a page fault for each of its pages.
    give_back: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    is_done: bool,
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !self.is_done && !into.is_empty() {
            let gone = |_| Fault::from(Error::unexpected("the thread that fetches a file is gone"));
            let next = self.pieces.recv().map_err(gone)?;
            self.is_done = next.as_ref().map_or(true, Vec::is_empty);
            let taken = std::mem::replace(&mut self.piece, next?);
            self.at = 0;
            // A thread that has ended needs no more of them.
            drop(self.give_back.send(taken));
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into.get_mut(..count).unwrap_or_default().copy_from_slice(rest.get(..count).unwrap_or_default());
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives so many bytes in pieces of odd lengths, then an error or the end.
    struct Line {
        left: usize,
        given: Arc<AtomicUsize>,
        fault: Option<Fault>,
    }

    impl Read for Line {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = into.len().min(self.left).min(10_007);
            let begin = self.given.fetch_add(count, Ordering::SeqCst);
            into[..count].iter_mut().zip(begin..).for_each(|(byte, n)| *byte = (n % 251) as u8);
            self.left -= count;
            match self.fault.take_if(|_| count == 0) {
                Some(fault) => Err(fault.into()),
                None => Ok(count),
            }
        }
    }

    fn line(bytes: usize, fault: Option<Fault>) -> (Box<dyn Read + Send>, Arc<AtomicUsize>) {
        let given = Arc::new(AtomicUsize::new(0));
        (Box::new(Line { left: bytes, given: given.clone(), fault }), given)
    }

    fn wanted(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| (n % 251) as u8).collect()
    }

    #[tokio::test]
    async fn all_bytes_come_in_order_to_the_end() {
        for bytes in [0, 1, PIECE - 1, PIECE, 7 * PIECE + 3] {
            let mut got = Vec::new();
            let mut read = ahead(line(bytes, None).0, u64::MAX, &Handle::current());
            read.read_to_end(&mut got).expect("bytes");
            assert!(got == wanted(bytes), "{bytes} bytes");
            assert_eq!(read.read(&mut [0; 9]).expect("the end stays the end"), 0);
        }
    }

    #[tokio::test]
    async fn a_fault_comes_behind_the_bytes_before_it() {
        let mut got = Vec::new();
        let mut read = ahead(line(3 * PIECE, Some(Fault::Changed)).0, u64::MAX, &Handle::current());
        let error = read.read_to_end(&mut got).expect_err("a fault");
        assert!(matches!(Fault::from(error), Fault::Changed));
        assert!(got == wanted(3 * PIECE));
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_window_holds_and_nothing_once_it_is_dropped() {
        let (read, given) = line(100 * PIECE, None);
        let ended = Arc::downgrade(&given);
        let mut read = ahead(read, u64::MAX, &Handle::current());
        read.read_exact(&mut [0; 10]).expect("bytes");
        drop((read, given));
        while let Some(given) = ended.upgrade() {
            // One piece was taken, the window is full, and one more is on its way.
            assert!(given.load(Ordering::SeqCst) <= (PIECES + 3) * PIECE);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_thread_that_dies_is_not_the_end_of_a_file() {
        struct Dies;
        impl Read for Dies {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("a bug")
            }
        }
        let error = ahead(Box::new(Dies), u64::MAX, &Handle::current()).read(&mut [0; 9]).expect_err("no end");
        assert!(matches!(Fault::from(error), Fault::Failed(_)));
        assert_eq!(ahead(Box::new(io::empty()), 3, &Handle::current()).read(&mut [0; 9]).expect("a small file"), 0);
    }
}
