//! Whom a client's certificate names.

use simple_asn1::{ASN1Block, BigUint, OID, from_der};
use webpki::EndEntityCert;

/// The object identifier of a common name: 2.5.4.3.
const COMMON_NAME: [u32; 4] = [2, 5, 4, 3];

/// The common name of a certificate's subject. If the subject has none, the first DNS name of the certificate. `None`
/// if there is neither, or if the subject cannot be read: it may have a common name, so the DNS name must not count.
pub(super) fn subject(certificate: &EndEntityCert<'_>) -> Option<Box<str>> {
    let common_name = common_name(certificate.subject()).ok()?;
    let name = common_name.or_else(|| certificate.valid_dns_names().next().map(str::to_owned));
    name.filter(|name| !name.is_empty()).map(Box::from)
}

/// The subject cannot be read.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

/// The first common name of a subject; `None` if it has none. A subject is a sequence of sets of attributes (RFC 5280,
/// section 4.1.2.4), and `der` is the content of that sequence.
fn common_name(der: &[u8]) -> Result<Option<String>, Unreadable> {
    if der.is_empty() {
        return Ok(None);
    }
    let oid = OID::new(COMMON_NAME.iter().copied().map(BigUint::from).collect());
    let sets = from_der(der).map_err(|_| Unreadable)?;
    for set in sets {
        let ASN1Block::Set(_, attributes) = set else { continue };
        for attribute in attributes {
            let ASN1Block::Sequence(_, parts) = attribute else { return Err(Unreadable) };
            if let [ASN1Block::ObjectIdentifier(_, id), value] = parts.as_slice()
                && *id == oid
            {
                return text(value).map(Some).ok_or(Unreadable);
            }
        }
    }
    Ok(None)
}

fn text(value: &ASN1Block) -> Option<String> {
    match value {
        ASN1Block::UTF8String(_, text) | ASN1Block::PrintableString(_, text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_is_found_among_other_attributes() {
        // C=DE, then O=x and CN=app in one set.
        let der = b"\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02DE\
                    \x31\x16\x30\x08\x06\x03\x55\x04\x0a\x0c\x01x\x30\x0a\x06\x03\x55\x04\x03\x0c\x03app";
        assert_eq!(common_name(der), Ok(Some("app".to_owned())));
        let without = der.get(..13).expect("the first set");
        assert_eq!([common_name(without), common_name(b"")], [Ok(None), Ok(None)]);
        for end in (1..der.len()).filter(|end| *end != 13) {
            assert_eq!(common_name(der.get(..end).expect("a part")), Err(Unreadable), "{end}");
        }
    }

    #[test]
    fn a_common_name_of_another_type_is_not_as_if_there_were_none() {
        // CN=app as a BMPString, with which the DNS name must not count instead.
        let der = b"\x31\x0f\x30\x0d\x06\x03\x55\x04\x03\x1e\x06\0a\0p\0p";
        assert_eq!(common_name(der), Err(Unreadable));
    }
}
