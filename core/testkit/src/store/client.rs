//! The store as its clients see it: every operation with the fault that is due.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use super::{Fault, FaultStore, Operation, Outcome, injected};

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let work = |inner: Arc<dyn ObjectStore>, path: Path| {
            let (payload, options) = (payload.clone(), options.clone());
            async move { inner.put_opts(&path, payload, options).await }.boxed()
        };
        self.with_faults(Operation::Put, location, || work(self.inner(), location.clone())).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = |inner: Arc<dyn ObjectStore>, path: Path| {
            let options = options.clone();
            async move { inner.put_multipart_opts(&path, options).await }.boxed()
        };
        let upload =
            self.with_faults(Operation::StartUpload, location, || work(self.inner(), location.clone())).await?;
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        Ok(Box::new(Upload { upload, store: self.clone(), path: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.decide(Operation::Get, location.as_ref());
        self.give_way().await;
        self.before(fault, Operation::Get, location).await?;
        let result = self.inner.get_opts(location, options).await;
        let outcome = if result.is_ok() { Outcome::Done } else { Outcome::Failed };
        self.record(Operation::Get, location.as_ref(), outcome);
        self.give_way().await;
        match fault {
            Fault::Cut(bytes) => Ok(cut(result?, bytes)),
            _ => result,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let work = |inner: Arc<dyn ObjectStore>, path: Path, ranges: Vec<Range<u64>>| {
            async move { inner.get_ranges(&path, &ranges).await }.boxed()
        };
        self.with_faults(Operation::Get, location, || work(self.inner(), location.clone(), ranges.to_vec())).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let path = location?;
                let work = |inner: Arc<dyn ObjectStore>, path: Path| async move { inner.delete(&path).await }.boxed();
                store.with_faults(Operation::Delete, &path, || work(store.inner(), path.clone())).await?;
                Ok(path)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_with_faults(prefix, |inner| inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_with_faults(prefix, |inner| inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let work = |inner: Arc<dyn ObjectStore>, prefix: Option<Path>| {
            async move { inner.list_with_delimiter(prefix.as_ref()).await }.boxed()
        };
        self.with_faults(Operation::List, &path, || work(self.inner(), prefix.cloned())).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let work = |inner: Arc<dyn ObjectStore>, from: Path, to: Path| {
            let options = options.clone();
            async move { inner.copy_opts(&from, &to, options).await }.boxed()
        };
        self.with_faults(Operation::Copy, to, || work(self.inner(), from.clone(), to.clone())).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let work = |inner: Arc<dyn ObjectStore>, from: Path, to: Path| {
            let options = options.clone();
            async move { inner.rename_opts(&from, &to, options).await }.boxed()
        };
        self.with_faults(Operation::Copy, to, || work(self.inner(), from.clone(), to.clone())).await
    }
}

/// An upload in parts whose parts, end and abort may go wrong.
struct Upload {
    /// Shared, because an end that is late outlives its caller.
    upload: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    store: FaultStore,
    path: Path,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.path)
    }
}

impl Upload {
    /// The end or the abort, with the fault that is due; a second call of one upload makes no sense, so `Repeat` passes.
    async fn finish<T, F>(&self, operation: Operation, work: impl Fn(Shareable) -> F + Send + Sync) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.store.with_faults(operation, &self.path, || work(Arc::clone(&self.upload)).boxed()).await
    }
}

type Shareable = Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>;

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // Parts are numbered in the order of these calls, so the inner call is made now and only its work can fail.
        // Nobody else holds the lock: a late end comes after all parts.
        let Ok(mut upload) = self.upload.try_lock() else {
            return async { Err(injected("a part was sent after the end of its upload")) }.boxed();
        };
        let part = upload.put_part(data);
        let (store, path) = (self.store.clone(), self.path.clone());
        async move {
            let fault = store.decide(Operation::Part, path.as_ref());
            store.give_way().await;
            match fault {
                Fault::LoseAnswer | Fault::LandLate => {
                    part.await?;
                    store.record(Operation::Part, path.as_ref(), Outcome::Lost);
                    return Err(injected("the answer was lost"));
                }
                other => store.before(other, Operation::Part, &path).await?,
            }
            let result = part.await;
            let outcome = if result.is_ok() { Outcome::Done } else { Outcome::Failed };
            store.record(Operation::Part, path.as_ref(), outcome);
            result
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.finish(Operation::CompleteUpload, |upload| async move { upload.lock().await.complete().await }).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.finish(Operation::AbortUpload, |upload| async move { upload.lock().await.abort().await }).await
    }
}

/// A body that ends with an error after `left` bytes.
fn cut(result: GetResult, left: u64) -> GetResult {
    let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
    let body = result.into_stream();
    let stream = futures::stream::unfold(Some((body, left)), |state| async move {
        let (mut body, left) = state?;
        if left == 0 {
            return Some((Err(injected("the body was cut")), None));
        }
        match body.next().await? {
            Err(error) => Some((Err(error), None)),
            Ok(bytes) => {
                let taken = bytes.slice(..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                let left = left - taken.len() as u64;
                Some((Ok(taken), Some((body, left))))
            }
        }
    });
    GetResult { payload: GetResultPayload::Stream(stream.boxed()), meta, range, attributes }
}
