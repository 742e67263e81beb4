//! Elements of the lists we read: items, neutral messages, usage entries. Many of them are not for
//! us, and what those hold must neither be kept nor be able to fail the event.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Rejection;
use super::members::{Members, push_token};
use super::scalar::Object;

/// An element of a list: read already (the fast path), or raw and read now (the slow path).
pub(super) trait Element<T> {
    /// The element at `index` of the list at `list`.
    fn read(self, list: &str, index: usize) -> Result<T, Rejection>;
}

/// What can say from a few members whether the rest is for us.
pub(super) trait Selective<'a>: Deserialize<'a> + Default {
    /// Members that tell whether the element is for us: the only ones read if it is not.
    const TELLING: &'static [&'static str];

    /// The element is for us. Asked of an element of which only [`Self::TELLING`] members that
    /// are strings have been read.
    fn is_kept(&self) -> bool;
}

impl<T> Element<T> for Object<T> {
    fn read(self, _list: &str, _index: usize) -> Result<T, Rejection> {
        Ok(self.0)
    }
}

impl<'a, T: Selective<'a>> Element<T> for &'a RawValue {
    fn read(self, list: &str, index: usize) -> Result<T, Rejection> {
        let pointer = pointer_to(list, index);
        let Some(members) = Members::of(self.get()) else {
            let nothing = T::default();
            let message = "Expected an object, found another value.";
            let is_refused = nothing.is_kept();
            return if is_refused {
                Err(Rejection::invalid(pointer, message))
            } else {
                Ok(nothing)
            };
        };
        let telling = members.first_texts(T::TELLING);
        let element: T = telling.read(&pointer, |_| true)?;
        if element.is_kept() { members.read(&pointer, |_| true) } else { Ok(element) }
    }
}

/// The pointer to an element of a list.
pub(super) fn pointer_to(list: &str, index: usize) -> String {
    let mut pointer = list.to_owned();
    push_token(&mut pointer, &index.to_string());
    pointer
}

/// Reads a list, element by element.
pub(super) fn read_list<T, E: Element<T>>(
    list: Vec<E>,
    pointer: &str,
) -> Result<Vec<T>, Rejection> {
    list.into_iter().enumerate().map(|(index, element)| element.read(pointer, index)).collect()
}
