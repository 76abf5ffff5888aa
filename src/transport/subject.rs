//! Whom a client's certificate names.

use simple_asn1::{ASN1Block, BigUint, OID, from_der};
use webpki::EndEntityCert;

/// The object identifier of a common name: 2.5.4.3.
const COMMON_NAME: [u32; 4] = [2, 5, 4, 3];

/// The common name of a certificate's subject, otherwise its first DNS name; `None` if it has neither.
pub(super) fn subject(certificate: &EndEntityCert<'_>) -> Option<Box<str>> {
    let common_name = common_name(certificate.subject());
    let name = common_name.or_else(|| certificate.valid_dns_names().next().map(str::to_owned));
    name.filter(|name| !name.is_empty()).map(Box::from)
}

/// The first common name of a subject. A subject is a sequence of sets of attributes (RFC 5280, section 4.1.2.4), and
/// `der` is what the sequence has.
fn common_name(der: &[u8]) -> Option<String> {
    let oid = OID::new(COMMON_NAME.iter().copied().map(BigUint::from).collect());
    let sets = from_der(der).ok()?;
    let attributes =
        sets.into_iter().filter_map(|set| if let ASN1Block::Set(_, items) = set { Some(items) } else { None });
    attributes.flatten().find_map(|attribute| {
        let ASN1Block::Sequence(_, parts) = attribute else { return None };
        match parts.as_slice() {
            [ASN1Block::ObjectIdentifier(_, id), value] if *id == oid => text(value),
            _ => None,
        }
    })
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
        assert_eq!(common_name(der).as_deref(), Some("app"));
        let without = der.get(..13).expect("the first set");
        assert_eq!(common_name(without), None);
        for end in 0..der.len() {
            common_name(der.get(..end).expect("a part"));
        }
    }
}
