//! What an outer layer left in the request extensions.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use http::request::Parts;

use super::{Identify, Identity, IdentityError, IdentityFault};
use crate::key::{ConversationId, KeyError, Subject, Tenant};

/// Reads a value of type `T` that an outer layer put into the request extensions, such as the
/// claims of a verified token. A request without the value has no identity from here.
pub struct Extension<T> {
    read: Reader<T>,
    names_owner: bool,
    of: PhantomData<fn(&T)>,
}

type Reader<T> = Box<dyn Fn(&T) -> Result<Identity, KeyError> + Send + Sync>;

impl<T: Send + Sync + 'static> Extension<T> {
    /// The value names the subject; `None` where it names nobody.
    pub fn subject(read: impl Fn(&T) -> Option<Result<Subject, KeyError>> + Send + Sync + 'static) -> Self {
        Self::new(move |value| Ok(Identity { subject: read(value).transpose()?, ..Identity::none() })).of_owner()
    }

    /// The value names the tenant; `None` where it names none.
    pub fn tenant(read: impl Fn(&T) -> Option<Result<Tenant, KeyError>> + Send + Sync + 'static) -> Self {
        Self::new(move |value| Ok(Identity { tenant: read(value).transpose()?, ..Identity::none() })).of_owner()
    }

    /// The value names the conversation; `None` where it names none.
    pub fn conversation(read: impl Fn(&T) -> Option<Result<ConversationId, KeyError>> + Send + Sync + 'static) -> Self {
        Self::new(move |value| Ok(Identity { conversation: read(value).transpose()?, ..Identity::none() }))
    }

    /// The value names any of the parts.
    pub fn new(read: impl Fn(&T) -> Result<Identity, KeyError> + Send + Sync + 'static) -> Self {
        Self { read: Box::new(read), names_owner: false, of: PhantomData }
    }

    fn of_owner(self) -> Self {
        Self { names_owner: true, ..self }
    }
}

impl<T: Send + Sync + 'static> Identify for Extension<T> {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentityError> {
        let Some(value) = parts.extensions.get::<T>() else { return Ok(Identity::none()) };
        (self.read)(value).map_err(|error| IdentityError::new(self.describe(), IdentityFault::Key(error)))
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("extension {}", std::any::type_name::<T>()))
    }

    fn names_owner(&self) -> bool {
        self.names_owner
    }

    /// Only another layer of this server can have put it there.
    fn is_verified(&self) -> bool {
        true
    }
}

impl<T> fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extension<{}>", std::any::type_name::<T>())
    }
}
