//! The mark of a message that is accepted only once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::Extensions;

/// Mark that a message was accepted. A check sets the mark before the inner service is called.
///
/// The mark is in the request's extensions, so that every check and extractor further inside can withdraw it. The
/// provider signs each retry anew, but a proxy may repeat the same request. If the mark stayed after a refusal, that
/// repetition would get 409 for a callback that no handler has seen.
#[derive(Clone)]
pub(crate) struct Acceptance {
    withdraw: Arc<dyn Fn() + Send + Sync>,
    /// True once a check or extractor further inside has admitted the request.
    admitted_inside: Arc<AtomicBool>,
    /// The mark that an outer check has set.
    outer: Option<Box<Self>>,
}

impl Acceptance {
    /// Creates a mark. `withdraw` removes it. `withdraw` may be called several times, and even after the mark has
    /// expired.
    #[cfg(feature = "signature")]
    pub(crate) fn new(withdraw: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            withdraw: Arc::new(withdraw),
            admitted_inside: Arc::default(),
            outer: None,
        }
    }

    /// Adds this mark to the extensions, so that inner checks can withdraw it together with the mark of an outer check.
    #[cfg(feature = "signature")]
    pub(crate) fn send_along(&self, extensions: &mut Extensions) {
        let mut mark = self.clone();
        mark.outer = extensions.remove::<Self>().map(Box::new);
        extensions.insert(mark);
    }

    pub(crate) fn withdraw(&self) {
        (self.withdraw)();
        if let Some(outer) = &self.outer {
            outer.withdraw();
        }
    }

    /// Returns the mark that an outer check has set.
    fn from_extensions(extensions: &Extensions) -> Option<&Self> {
        // Without the feature `signature`, no check sets a mark, so a refusal need not search the extensions.
        if cfg!(feature = "signature") {
            extensions.get()
        } else {
            None
        }
    }
}

/// Withdraws the mark of a request that is refused before a handler has seen it.
pub(crate) fn refused(extensions: &Extensions) {
    if let Some(mark) = Acceptance::from_extensions(extensions) {
        mark.withdraw();
    }
}

/// Records that the request was admitted, so that its mark stays if the sender disconnects.
#[cfg(feature = "signature")]
pub(crate) fn admitted(extensions: &Extensions) {
    let mut mark = Acceptance::from_extensions(extensions);
    while let Some(at) = mark {
        at.admitted_inside.store(true, Ordering::Relaxed);
        mark = at.outer.as_deref();
    }
}

/// The mark of a request that waits for its verdict. It is withdrawn if this value is dropped before `deliver` is
/// called.
pub(crate) struct Undelivered(Option<Acceptance>);

impl Undelivered {
    pub(crate) fn new(extensions: &Extensions) -> Self {
        Self(Acceptance::from_extensions(extensions).cloned())
    }

    /// Keeps the mark. Must be called right before the inner service is called.
    pub(crate) fn deliver(mut self) {
        self.0 = None;
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(mark) = &self.0 {
            mark.withdraw();
        }
    }
}

/// The mark of a request that the inner service is processing.
pub(crate) struct Delivered {
    mark: Acceptance,
    tagging: bool,
    answered: bool,
}

impl Delivered {
    #[cfg(feature = "signature")]
    pub(crate) fn new(mark: Acceptance, tagging: bool) -> Self {
        Self {
            mark,
            tagging,
            answered: false,
        }
    }

    /// Keeps the mark, since the handler has responded. The status does not matter.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }

    pub(crate) fn failed(self) {
        self.mark.withdraw();
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // The sender disconnected, or the inner service panicked. After a disconnection, a handler that was called may
        // have done its work nevertheless.
        let is_decided = !self.tagging || self.mark.admitted_inside.load(Ordering::Relaxed);
        if !is_decided || std::thread::panicking() {
            self.mark.withdraw();
        }
    }
}
