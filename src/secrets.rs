//! The installation's keys: the first seals what must be kept secret at rest, each opens what it
//! sealed, so that a key can be replaced by another.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::clock;

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES;
const NONCE_BYTES: usize = 12;

/// The installation's keys, the present one first. Whoever has them can read every endpoint's
/// secret.
#[derive(Clone)]
pub struct Keyring {
    present: SealingKey,
    earlier: Vec<SealingKey>,
}

#[derive(Clone)]
struct SealingKey {
    key: [u8; 32],
    id: [u8; KEY_ID_BYTES],
    cipher: ChaCha20Poly1305,
}

/// Why a text is no key.
#[derive(Debug, thiserror::Error)]
#[error(
    "a secret key is 32 bytes, written as 64 hexadecimal digits or as base64; earlier keys stand \
     behind it, after commas"
)]
pub struct KeyError;

/// Why sealed bytes cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Sealed by another installation's key.
    #[error(
        "this was sealed with key {}, and the present key is {}: give the key it was sealed with, \
         too, behind the present one",
        hex::encode(.sealed_with), hex::encode(.present)
    )]
    OtherKey {
        /// The id of the key that sealed it.
        sealed_with: [u8; KEY_ID_BYTES],
        /// The id of this key.
        present: [u8; KEY_ID_BYTES],
    },
    /// Cut, changed, or from a later release.
    #[error("the sealed bytes are damaged, or a later release sealed them")]
    Damaged,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file can be neither read nor made.
    #[error("the key file {} cannot be read or made: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} does not hold a key: {source}", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        source: KeyError,
    },
}

impl Keyring {
    /// The keyring of this key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { present: SealingKey::new(key), earlier: Vec::new() }
    }

    /// The keyring of keys written as 64 hexadecimal digits or as base64 of 32 bytes, the present
    /// one first, with commas or lines between. White space around them does not count.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let texts = text.split([',', '\n']).map(str::trim).filter(|text| !text.is_empty());
        let mut keys = texts.map(SealingKey::parse);
        let present = keys.next().ok_or(KeyError)??;
        Ok(Self { present, earlier: keys.collect::<Result<_, _>>()? })
    }

    /// The keyring of the key in this file. A file that is not there is made, with a fresh key,
    /// readable by nobody else; of several processes that start at once, one makes it.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_key_file(path).map_err(failed)?;
                std::fs::read_to_string(path).map_err(failed)?
            }
            read => read.map_err(failed)?,
        };
        Self::parse(&text).map_err(|source| KeyFileError::NoKey { path: path.to_owned(), source })
    }

    /// Seals a secret with the present key, each time differently.
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&clock::random_key()[..NONCE_BYTES]);
        self.present.seal_with(plain, nonce)
    }

    /// Opens what any of these keys sealed.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (version, id) = header(sealed)?;
        if version != VERSION {
            return Err(OpenError::Damaged);
        }
        let mut keys = std::iter::once(&self.present).chain(&self.earlier);
        let key = keys.find(|key| key.id == id);
        key.ok_or(OpenError::OtherKey { sealed_with: id, present: self.present.id })?.open(sealed)
    }

    /// The same secret sealed with the present key, if an earlier one sealed it.
    pub fn reseal(&self, sealed: &[u8]) -> Result<Option<Vec<u8>>, OpenError> {
        let (_, id) = header(sealed)?;
        if id == self.present.id { Ok(None) } else { Ok(Some(self.seal(&self.open(sealed)?))) }
    }

    /// A key for one purpose, the same as long as the installation's present key is.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        derive(&self.present.key, label)
    }
}

/// The form's version, and the id of the key that sealed it.
fn header(sealed: &[u8]) -> Result<(u8, [u8; KEY_ID_BYTES]), OpenError> {
    let [version, id @ ..] = sealed.first_chunk::<HEADER_BYTES>().ok_or(OpenError::Damaged)?;
    Ok((*version, *id))
}

impl SealingKey {
    fn new(key: [u8; 32]) -> Self {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest[..KEY_ID_BYTES]);
        let sealing = derive(&key, "sealing");
        Self { key, id, cipher: ChaCha20Poly1305::new(&Key::from(sealing)) }
    }

    fn parse(text: &str) -> Result<Self, KeyError> {
        let mut key = [0; 32];
        if hex::decode_to_slice(text, &mut key).is_ok() {
            return Ok(Self::new(key));
        }
        let bytes = STANDARD.decode(text).map_err(|_| KeyError)?;
        Ok(Self::new(bytes.try_into().map_err(|_| KeyError)?))
    }

    fn seal_with(&self, plain: &[u8], nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let header = self.header();
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: &header })
            .expect("only a plaintext above 256 GiB cannot be sealed");
        [header.as_slice(), &nonce, &sealed].concat()
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (header, rest) = sealed.split_at_checked(HEADER_BYTES).ok_or(OpenError::Damaged)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Damaged)?;
        self.cipher
            .decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: header })
            .map_err(|_| OpenError::Damaged)
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [VERSION; HEADER_BYTES];
        header[1..].copy_from_slice(&self.id);
        header
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("id", &hex::encode(self.present.id)).finish_non_exhaustive()
    }
}

fn derive(key: &[u8; 32], label: &str) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key)
        .expect("HMAC takes a key of any length");
    mac.update(label.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Writes beside the path and moves into place: nobody ever reads half a key, and the move does
/// not replace a file that another process has put there meanwhile.
fn create_key_file(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    // Temporary files are made with mode 0600, and keep it when they are moved.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{}", hex::encode(clock::random_key()))?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(refused) if refused.error.kind() != io::ErrorKind::AlreadyExists => Err(refused.error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_sealed_opens_again_and_looks_different_each_time() {
        let keyring = Keyring::new([7; 32]);
        let (first, second) = (keyring.seal(b"whsec_abc"), keyring.seal(b"whsec_abc"));
        assert_ne!(first, second);
        assert_eq!(keyring.open(&first).unwrap(), b"whsec_abc");
        assert_eq!(keyring.open(&second).unwrap(), b"whsec_abc");
    }

    #[test]
    fn the_sealed_form_never_changes() {
        let sealed = SealingKey::new([7; 32]).seal_with(b"whsec_abc", [9; 12]);
        assert_eq!(hex::encode(sealed), SEALED);
        assert_eq!(
            Keyring::new([7; 32]).open(&hex::decode(SEALED).unwrap()).unwrap(),
            b"whsec_abc"
        );
    }

    const SEALED: &str =
        "014bb06f8e09090909090909090909090973418f091c5f7f7d6e8ed0e46ba9246e7f01981cfd5d6eb272";

    #[test]
    fn another_key_is_named_in_the_error() {
        let sealed = Keyring::new([7; 32]).seal(b"secret");
        let error = Keyring::new([8; 32]).open(&sealed).unwrap_err();
        let id = |key: [u8; 32]| hex::encode(&Sha256::digest(key)[..4]);
        assert!(error.to_string().contains(&id([7; 32])), "{error}");
        assert!(error.to_string().contains(&id([8; 32])), "{error}");
    }

    #[test]
    fn a_key_is_read_from_digits_and_from_base64() {
        let key = [0xab; 32];
        for text in
            [hex::encode(key), hex::encode_upper(key), format!(" {}\n", STANDARD.encode(key))]
        {
            assert_eq!(Keyring::parse(&text).unwrap().derive("x"), Keyring::new(key).derive("x"));
        }
        for text in
            ["", "abc", &"a".repeat(63), &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33])]
        {
            let sentence = Keyring::parse(text).unwrap_err().to_string();
            assert!(sentence.contains("64 hexadecimal digits"), "{sentence}");
        }
    }

    #[test]
    fn a_key_is_replaced_by_another_in_two_steps() {
        let (old, new) = (hex::encode([7; 32]), hex::encode([8; 32]));
        let before = Keyring::parse(&old).unwrap();
        let sealed = before.seal(b"whsec_abc");
        for keys in [format!("{new},{old}"), format!("{new}\n {old}\n")] {
            let both = Keyring::parse(&keys).unwrap();
            assert_eq!(both.open(&sealed).unwrap(), b"whsec_abc");
            assert!(before.open(&both.seal(b"whsec_abc")).is_err(), "the new one seals");
            let resealed = both.reseal(&sealed).unwrap().unwrap();
            assert_eq!(both.reseal(&resealed).unwrap(), None, "once is enough");
            let after = Keyring::parse(&new).unwrap();
            assert_eq!(after.open(&resealed).unwrap(), b"whsec_abc");
            assert!(after.open(&sealed).is_err() && after.reseal(&sealed).is_err());
            assert_eq!(both.derive("x"), after.derive("x"));
        }
        assert!(Keyring::parse(&format!("{new},{}", &old[1..])).is_err());
        assert!(Keyring::parse(" , \n").is_err());
    }

    #[test]
    fn each_purpose_has_its_own_key() {
        let keyring = Keyring::new([7; 32]);
        assert_ne!(keyring.derive("recordings"), keyring.derive("cursors"));
        assert_ne!(keyring.derive("recordings"), Keyring::new([8; 32]).derive("recordings"));
        assert_eq!(keyring.derive("recordings"), Keyring::new([7; 32]).derive("recordings"));
    }

    #[test]
    fn the_key_is_not_shown() {
        let shown = format!("{:?}", Keyring::new([0xab; 32]));
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }

    #[test]
    fn many_processes_that_start_at_once_use_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/secret.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| Keyring::load_or_create(&path).unwrap().derive("x")))
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_without_a_key_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.key");
        std::fs::write(&path, "hello").unwrap();
        let error = Keyring::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("secret.key") && error.contains("64 hexadecimal digits"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello");
    }

    proptest! {
        #[test]
        fn damage_is_never_opened(
            plain in proptest::collection::vec(any::<u8>(), 0..64),
            place in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let keyring = Keyring::new([7; 32]);
            let mut sealed = keyring.seal(&plain);
            let place = place.index(sealed.len());
            sealed[place] ^= 1_u8 << bit;
            prop_assert!(keyring.open(&sealed).is_err());
        }

        #[test]
        fn no_bytes_make_opening_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Keyring::new([7; 32]).open(&bytes).is_err());
        }
    }
}
