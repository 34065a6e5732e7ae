"""The CA core: authorities, profiles, policy, issuance, revocation, CRL, OCSP, audit."""
