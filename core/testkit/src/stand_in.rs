//! What every scripted API has: a server, a state that the test and the server share, a clock that can be stopped, and a script
//! of what goes wrong.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::http::{HttpServer, Request, Response};

/// The objects of an API, and how requests are answered from them.
pub trait Api: Default + Send + 'static {
    /// What can go wrong with one request.
    type Fault: Copy + Send + 'static;

    /// Faults that a client may repeat, for [`StandIn::chaos`].
    const PASSING: &'static [Self::Fault];

    /// Answers a request.
    fn answer(&mut self, request: &Request) -> Response;

    /// What goes wrong, and when.
    fn script(&mut self) -> &mut Script<Self>;

    /// The server's time, in the unit of the API.
    fn now(&self) -> i64;

    /// Stops the server's clock at a time.
    fn freeze(&mut self, now: i64);
}

type Change<A> = Box<dyn FnOnce(&mut A) + Send>;

/// What goes wrong, and what happens between two requests.
pub struct Script<A: Api> {
    faults: VecDeque<A::Fault>,
    chaos: Option<(StdRng, f64)>,
    changes: BTreeMap<usize, Vec<Change<A>>>,
    answered: usize,
}

impl<A: Api> Default for Script<A> {
    fn default() -> Self {
        Self { faults: VecDeque::new(), chaos: None, changes: BTreeMap::new(), answered: 0 }
    }
}

impl<A: Api> Script<A> {
    /// What goes wrong with the request that is answered now.
    pub fn next_fault(&mut self) -> Option<A::Fault> {
        if let Some(fault) = self.faults.pop_front() {
            return Some(fault);
        }
        let (rng, probability) = self.chaos.as_mut()?;
        let wrong = rng.random_bool(*probability);
        wrong.then(|| A::PASSING[rng.random_range(0..A::PASSING.len())])
    }

    /// Another thing goes wrong, after all that were said before.
    pub fn fault(&mut self, fault: A::Fault) {
        self.faults.push_back(fault);
    }
}

/// Counts a request, after what was to happen before it. Gives its number, from 1.
pub fn count<A: Api>(api: &mut A) -> usize {
    let script = api.script();
    let due = script.changes.remove(&script.answered).unwrap_or_default();
    script.answered += 1;
    let number = script.answered;
    due.into_iter().for_each(|change| change(api));
    number
}

/// The server; it stops when it is dropped.
pub struct StandIn<A> {
    http: HttpServer,
    state: Arc<Mutex<A>>,
}

impl<A: Api> StandIn<A> {
    /// Starts it as [`Default`] has it, on the clock of this machine.
    pub async fn start() -> Self {
        Self::serve(true).await
    }

    /// Starts it for load tests: it keeps no list of requests.
    pub async fn start_unrecorded() -> Self {
        Self::serve(false).await
    }

    async fn serve(record: bool) -> Self {
        let state = Arc::new(Mutex::new(A::default()));
        let shared = state.clone();
        let handler = move |request: Request| {
            let response = lock(&shared).answer(&request);
            async move { response }
        };
        let http = match record {
            true => HttpServer::start(handler).await,
            false => HttpServer::start_unrecorded(handler).await,
        };
        Self { http, state }
    }

    /// What it answers to a request that another server got: the honest part of a [`crate::hostile`] one.
    pub fn answer(&self, request: &Request) -> Response {
        self.state().answer(request)
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> &str {
        self.http.url()
    }

    /// The server below: requests, hits, connections.
    pub fn http(&self) -> &HttpServer {
        &self.http
    }

    /// The objects and settings; the server waits while the guard lives.
    pub fn state(&self) -> MutexGuard<'_, A> {
        lock(&self.state)
    }

    /// The state, for another server of the same service.
    pub(crate) fn shared(&self) -> Arc<Mutex<A>> {
        self.state.clone()
    }

    /// Stops the server's clock at a time, in the unit of the API.
    pub fn freeze(&self, now: i64) {
        self.state().freeze(now);
    }

    /// Moves a frozen clock on.
    pub fn advance(&self, by: i64) {
        let mut state = self.state();
        let now = state.now() + by;
        state.freeze(now);
    }

    /// The next requests go wrong so, one after another.
    pub fn faults(&self, faults: impl IntoIterator<Item = A::Fault>) {
        self.state().script().faults.extend(faults);
    }

    /// No request that was to go wrong does.
    pub fn no_faults(&self) {
        self.state().script().faults.clear();
    }

    /// Every request goes wrong with this probability from now on, in a way that may be repeated; 0 ends it.
    pub fn chaos(&self, seed: u64, probability: f64) {
        self.state().script().chaos = Some((StdRng::seed_from_u64(seed), probability));
    }

    /// Runs `change` right before the `n`-th request from now on is answered; 0 is the next.
    pub fn before(&self, n: usize, change: impl FnOnce(&mut A) + Send + 'static) {
        let mut state = self.state();
        let script = state.script();
        script.changes.entry(script.answered + n).or_default().push(Box::new(change));
    }
}

fn lock<A>(state: &Mutex<A>) -> MutexGuard<'_, A> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
