//! TLS by `sslmode`: what of the server's certificate is checked, the client's own certificate, and the channel
//! binding that ties SCRAM to the certificate seen.
//!
//! Two leniencies of libpq that the usual checks of rustls lack, since self-made certificates rely on them: a
//! certificate that itself is in `sslrootcert` is trusted although it is no authority's child, and a certificate
//! without alternative names is known by its common name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_cert::der::{Decode, Encode};

use super::conninfo::{RootCertificates, SslMode, TlsOptions, key_is_private};
use crate::model::Fault;

/// The rustls configuration for one mode.
pub(super) fn config(options: &TlsOptions, mode: SslMode) -> Result<Arc<ClientConfig>, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = if options.only_tls13 {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let verifier = Verifier::new(options, mode, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| Fault::stop(format!("TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &options.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| Fault::stop(format!("client certificate {}: {error}", certificate.display())))?,
    };
    if options.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(Arc::new(config))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Encryption only: anybody may be at the other end.
    Nothing,
    Authority,
    AuthorityAndName,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    /// The same roots, as whole certificates.
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(options: &TlsOptions, mode: SslMode, provider: Arc<CryptoProvider>) -> Result<Verifier, Fault> {
        let check = match (mode, &options.roots) {
            (SslMode::VerifyFull, _) => Check::AuthorityAndName,
            (SslMode::VerifyCa, None) => {
                return Err(Fault::usage("sslmode=verify-ca needs the certificate of the authority")
                    .hint("sslrootcert=FILE, or sslmode=verify-full with the system's authorities"));
            }
            // libpq: a root certificate that is there is used.
            (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => Check::Authority,
            _ => Check::Nothing,
        };
        let trusted = match (check, &options.roots) {
            (Check::Nothing, _) => Vec::new(),
            (_, Some(RootCertificates::File(path))) => {
                certificates(path).map_err(|fault| fault.context("sslrootcert"))?
            }
            (_, Some(RootCertificates::System) | None) => system_certificates()?,
        };
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(trusted.iter().cloned());
        if unusable > 0 {
            tracing::debug!(unusable, "some root certificates can't be used");
        }
        Ok(Verifier { check, roots, trusted, provider })
    }

    fn check_authority(
        &self,
        leaf: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.trusted.iter().any(|trusted| trusted == leaf) {
            return check_validity(leaf, now);
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(parsed, &self.roots, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check != Check::Nothing {
            let parsed = ParsedCertificate::try_from(leaf)?;
            self.check_authority(leaf, &parsed, intermediates, now)?;
            if self.check == Check::AuthorityAndName {
                verify_server_name(&parsed, server_name)
                    .or_else(|error| if common_name_fits(leaf, server_name) { Ok(()) } else { Err(error) })?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    // Always checked, in every mode: channel binding is worth nothing if the peer need not own its certificate.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn check_validity(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let certificate = x509_cert::Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let validity = certificate.tbs_certificate.validity;
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether a certificate that has no alternative names at all is for this host by its common name.
fn common_name_fits(leaf: &CertificateDer<'_>, server_name: &ServerName<'_>) -> bool {
    const SUBJECT_ALTERNATIVE_NAME: &str = "2.5.29.17";
    const COMMON_NAME: &str = "2.5.4.3";
    let Ok(certificate) = x509_cert::Certificate::from_der(leaf) else { return false };
    let subject = certificate.tbs_certificate;
    let mut extensions = subject.extensions.iter().flatten();
    if extensions.any(|extension| extension.extn_id.to_string() == SUBJECT_ALTERNATIVE_NAME) {
        return false;
    }
    let host = server_name.to_str();
    let attributes = subject.subject.0.iter().flat_map(|names| names.0.iter());
    attributes.filter(|attribute| attribute.oid.to_string() == COMMON_NAME).any(|attribute| {
        let name = std::str::from_utf8(attribute.value.value()).unwrap_or_default();
        match (name.strip_prefix("*."), host.split_once('.')) {
            // A star stands for one label, and never for a part of an address.
            (Some(parent), Some((label, rest))) if matches!(server_name, ServerName::DnsName(_)) => {
                !label.is_empty() && parent.eq_ignore_ascii_case(rest)
            }
            (Some(_), _) => false,
            (None, _) => name.eq_ignore_ascii_case(&host),
        }
    })
}

/// The `tls-server-end-point` of a certificate (RFC 5929 section 4.1): its hash by the digest of its signature, but
/// SHA-256 for MD5 and SHA-1. `None` where the signature has no digest of its own (Ed25519).
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm;
    let digest = match algorithm.oid.to_string().as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => &digest::SHA256,
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        "1.2.840.113549.1.1.10" => pss_digest(&algorithm.parameters?.to_der().ok()?)?,
        _ => return None,
    };
    Some(digest::digest(digest, certificate).as_ref().to_vec())
}

/// The digest that the parameters of RSASSA-PSS name (the first object identifier in them; SHA-1 when none).
fn pss_digest(parameters: &[u8]) -> Option<&'static digest::Algorithm> {
    const SHA2: [u8; 10] = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let Some(place) = parameters.windows(SHA2.len()).position(|window| window == SHA2) else {
        return Some(&digest::SHA256);
    };
    match parameters.get(place.checked_add(SHA2.len())?)? {
        1 => Some(&digest::SHA256),
        2 => Some(&digest::SHA384),
        3 => Some(&digest::SHA512),
        _ => None,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read = || -> Result<Vec<_>, rustls::pki_types::pem::Error> {
        CertificateDer::pem_file_iter(path)?.collect()
    };
    match read() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Fault::stop(format!("no certificate (PEM) in {}", path.display()))),
        Err(error) => Err(Fault::stop(format!("can't read certificates from {}: {error}", path.display()))),
    }
}

fn private_key(path: &PathBuf) -> Result<PrivateKeyDer<'static>, Fault> {
    if path.exists() && !key_is_private(path) {
        return Err(Fault::stop(format!("private key {} can be read by others", path.display()))
            .hint(format!("chmod 0600 {}", path.display())));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        Fault::stop(format!("can't read the private key {}: {error}", path.display()))
            .hint("it must be PEM without a pass phrase (PKCS#8, PKCS#1 or SEC1)")
    })
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(Fault::stop("the system has no root certificates to check the server's with")
            .hint("sslrootcert=FILE names the authority's certificate; the package ca-certificates brings the usual ones"));
    }
    Ok(found.certs)
}
