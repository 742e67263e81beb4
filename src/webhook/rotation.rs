//! An endpoint's secrets over time: a new one signs first, those before it sign along for a while,
//! so that the receiver can change over without losing a webhook. Pure.

use chrono::{DateTime, TimeDelta, Utc};

use super::signature::{Secret, SecretError};

/// How long a secret that was replaced signs along, unless somebody says otherwise.
pub const OVERLAP: TimeDelta = TimeDelta::hours(24);
/// The longest that it can.
pub const LONGEST_OVERLAP: TimeDelta = TimeDelta::days(7);
/// Secrets that sign at the same time.
const MOST_LIVE: usize = 10;

/// The secrets of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningSecrets {
    newest: Secret,
    /// Those that it replaced, the newest first, with the moment when they end.
    older: Vec<(Secret, DateTime<Utc>)>,
}

/// Why a secret cannot be replaced by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// Each signature makes the header longer.
    #[error(
        "Ten secrets sign already: wait until one has ended, or rotate with an overlap of 0, \
         which ends all but the new one."
    )]
    TooMany,
    /// Nothing would change.
    #[error("This is the endpoint's secret already: give another one.")]
    Same,
}

impl SigningSecrets {
    /// One secret.
    pub fn new(secret: Secret) -> Self {
        Self { newest: secret, older: Vec::new() }
    }

    /// The secrets that sign `now`, the newest first.
    pub fn live(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Secret> {
        let older = self.older.iter().filter(move |(_, ends_at)| *ends_at > now);
        std::iter::once(&self.newest).chain(older.map(|(secret, _)| secret))
    }

    /// When the secrets before the newest end, if they sign `now`.
    pub fn ends(&self, now: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        self.older.iter().map(|(_, ends_at)| *ends_at).filter(move |ends_at| *ends_at > now)
    }

    /// With a new secret. The present one signs along for `overlap`; with none, it and all before
    /// it end at once.
    pub fn rotated(
        &self,
        secret: Secret,
        now: DateTime<Utc>,
        overlap: TimeDelta,
    ) -> Result<Self, RotationError> {
        if secret == self.newest {
            return Err(RotationError::Same);
        }
        if overlap <= TimeDelta::zero() {
            return Ok(Self::new(secret));
        }
        let live = self.older.iter().filter(|(old, ends_at)| *ends_at > now && *old != secret);
        let replaced = std::iter::once((self.newest.clone(), now + overlap.min(LONGEST_OVERLAP)));
        let older: Vec<_> = replaced.chain(live.cloned()).collect();
        if older.len() >= MOST_LIVE {
            return Err(RotationError::TooMany);
        }
        Ok(Self { newest: secret, older })
    }

    /// As they are sealed: `whsec_…` texts with a space between two; behind those that end stands
    /// `@` and the second of their end.
    pub fn to_text(&self) -> String {
        let older = self.older.iter();
        let older = older.map(|(secret, end)| format!("{}@{}", secret.reveal(), end.timestamp()));
        std::iter::once(self.newest.reveal()).chain(older).collect::<Vec<_>>().join(" ")
    }

    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let mut words = text.split(' ');
        let newest = Secret::parse(words.next().unwrap_or_default())?;
        let older = words.map(|word| {
            let (secret, second) = word.split_once('@').ok_or(SecretError)?;
            let second = second.parse().map_err(|_| SecretError)?;
            let ends_at = DateTime::from_timestamp(second, 0).ok_or(SecretError)?;
            Ok((Secret::parse(secret)?, ends_at))
        });
        Ok(Self { newest, older: older.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000, 0).unwrap() + TimeDelta::hours(hours)
    }

    fn secret(byte: u8) -> Secret {
        Secret::generate([byte; 32])
    }

    fn live(secrets: &SigningSecrets, hours: i64) -> Vec<Secret> {
        secrets.live(at(hours)).cloned().collect()
    }

    #[test]
    fn the_old_secret_signs_along_until_its_time_is_over() {
        let secrets = SigningSecrets::new(secret(1)).rotated(secret(2), at(0), OVERLAP).unwrap();
        assert_eq!(live(&secrets, 0), [secret(2), secret(1)]);
        assert_eq!(live(&secrets, 23), [secret(2), secret(1)]);
        assert_eq!(live(&secrets, 24), [secret(2)]);
        assert_eq!(secrets.ends(at(0)).collect::<Vec<_>>(), [at(24)]);
        let secrets = secrets.rotated(secret(3), at(12), OVERLAP).unwrap();
        assert_eq!(live(&secrets, 12), [secret(3), secret(2), secret(1)]);
        assert_eq!(live(&secrets, 24), [secret(3), secret(2)]);
        assert_eq!(SigningSecrets::parse(&secrets.to_text()).unwrap(), secrets);
    }

    #[test]
    fn without_an_overlap_all_older_secrets_end_at_once() {
        let secrets = SigningSecrets::new(secret(1)).rotated(secret(2), at(0), OVERLAP).unwrap();
        let secrets = secrets.rotated(secret(3), at(1), TimeDelta::zero()).unwrap();
        assert_eq!(live(&secrets, 1), [secret(3)]);
    }

    #[test]
    fn ten_secrets_sign_at_once_and_no_more() {
        let mut secrets = SigningSecrets::new(secret(0));
        for byte in 1..10 {
            secrets = secrets.rotated(secret(byte), at(0), OVERLAP).unwrap();
        }
        assert_eq!(live(&secrets, 0).len(), 10);
        assert_eq!(secrets.rotated(secret(10), at(1), OVERLAP), Err(RotationError::TooMany));
        assert!(secrets.rotated(secret(10), at(24), OVERLAP).is_ok(), "those have ended");
        assert!(secrets.rotated(secret(10), at(1), TimeDelta::zero()).is_ok());
    }

    #[test]
    fn a_secret_does_not_replace_itself_but_an_old_one_may_come_back() {
        let secrets = SigningSecrets::new(secret(1));
        assert_eq!(secrets.rotated(secret(1), at(0), OVERLAP), Err(RotationError::Same));
        let back = secrets.rotated(secret(2), at(0), OVERLAP).unwrap();
        let back = back.rotated(secret(1), at(1), OVERLAP).unwrap();
        assert_eq!(live(&back, 1), [secret(1), secret(2)]);
    }

    #[test]
    fn what_is_no_list_of_secrets_is_not_read_as_one() {
        let one = secret(1).reveal();
        assert_eq!(SigningSecrets::parse(&one).unwrap(), SigningSecrets::new(secret(1)));
        for text in ["", "x", &format!("{one} {one}"), &format!("{one} {one}@soon"), &one[..20]] {
            assert!(SigningSecrets::parse(text).is_err(), "{text}");
        }
    }
}
