import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.ocsp.OCSPObjectIdentifiers;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.Extensions;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaX509CertificateHolder;
import org.bouncycastle.cert.ocsp.BasicOCSPResp;
import org.bouncycastle.cert.ocsp.CertificateID;
import org.bouncycastle.cert.ocsp.CertificateStatus;
import org.bouncycastle.cert.ocsp.OCSPReqBuilder;
import org.bouncycastle.cert.ocsp.OCSPResp;
import org.bouncycastle.cert.ocsp.RevokedStatus;
import org.bouncycastle.cert.ocsp.SingleResp;
import org.bouncycastle.operator.DigestCalculator;
import org.bouncycastle.operator.jcajce.JcaContentVerifierProviderBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;

/**
 * Asks for the status of a citizen's certificate as a relying service with the rules of Web eID does: SHA-1 CertID, a
 * nonce, exactly one answer, the responder's certificate first in the answer, issued by the CA for OCSP signing, and an
 * answer of the last two minutes. Prints one line: GOOD, REVOKED, UNKNOWN or REFUSED with the rule that was broken.
 *
 * <p>Arguments: URL, the CA's certificate (DER), then one or more citizens' certificates (DER).
 */
public final class WebEidStatus {
    private static final Duration MAX_AGE = Duration.ofMinutes(2);
    private static final Duration SKEW = Duration.ofMinutes(15);
    private static final String OCSP_SIGNING = "1.3.6.1.5.5.7.3.9";

    private static final class Refused extends Exception {
        Refused(String rule) {
            super(rule);
        }
    }

    public static void main(String[] args) throws Exception {
        HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();
        X509Certificate issuer = read(args[1]);
        for (int i = 2; i < args.length; i++) {
            String line;
            try {
                line = ask(http, URI.create(args[0]), issuer, read(args[i]));
            } catch (Refused refused) {
                line = "REFUSED " + refused.getMessage();
            }
            System.out.println(line);
        }
    }

    private static X509Certificate read(String path) throws Exception {
        byte[] der = Files.readAllBytes(Path.of(path));
        return parse(der);
    }

    private static X509Certificate parse(byte[] der) throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        return (X509Certificate) factory.generateCertificate(new ByteArrayInputStream(der));
    }

    private static String ask(HttpClient http, URI url, X509Certificate issuer, X509Certificate subject)
            throws Exception {
        DigestCalculator sha1 = new JcaDigestCalculatorProviderBuilder().build().get(CertificateID.HASH_SHA1);
        CertificateID id = new CertificateID(sha1, new JcaX509CertificateHolder(issuer), subject.getSerialNumber());
        byte[] random = new byte[32];
        new SecureRandom().nextBytes(random);
        byte[] nonce = new DEROctetString(random).getEncoded();
        Extension extension = new Extension(OCSPObjectIdentifiers.id_pkix_ocsp_nonce, false, nonce);
        OCSPReqBuilder builder = new OCSPReqBuilder().addRequest(id);
        byte[] request = builder.setRequestExtensions(new Extensions(extension)).build().getEncoded();

        HttpRequest post = HttpRequest.newBuilder(url).timeout(Duration.ofSeconds(5))
                .header("Content-Type", "application/ocsp-request")
                .POST(HttpRequest.BodyPublishers.ofByteArray(request)).build();
        HttpResponse<byte[]> reply = http.send(post, HttpResponse.BodyHandlers.ofByteArray());
        check(reply.statusCode() == 200, "HTTP status " + reply.statusCode());
        String type = reply.headers().firstValue("Content-Type").orElse("");
        check(type.equals("application/ocsp-response"), "content type");
        OCSPResp response = new OCSPResp(reply.body());
        check(response.getStatus() == OCSPResp.SUCCESSFUL, "response status " + response.getStatus());
        return judge((BasicOCSPResp) response.getResponseObject(), id, nonce, issuer);
    }

    private static String judge(BasicOCSPResp basic, CertificateID id, byte[] nonce, X509Certificate issuer)
            throws Exception {
        check(basic.getResponses().length == 1, "not exactly one answer");
        SingleResp single = basic.getResponses()[0];
        check(single.getCertID().equals(id), "another CertID");
        check(basic.getCerts().length == 1, "not exactly one certificate");
        X509CertificateHolder responder = basic.getCerts()[0];
        check(basic.isSignatureValid(new JcaContentVerifierProviderBuilder().build(responder)), "signature");
        check(responder.getIssuer().equals(new JcaX509CertificateHolder(issuer).getSubject()), "another issuer");
        boolean delegated = responder.isSignatureValid(new JcaContentVerifierProviderBuilder().build(issuer));
        check(delegated, "not signed by the CA");
        X509Certificate parsed = parse(responder.getEncoded());
        parsed.checkValidity();
        check(parsed.getExtendedKeyUsage() != null && parsed.getExtendedKeyUsage().contains(OCSP_SIGNING), "key usage");
        Instant now = Instant.now();
        Instant thisUpdate = single.getThisUpdate().toInstant();
        check(!thisUpdate.isAfter(now.plus(SKEW)), "thisUpdate in the future");
        check(!thisUpdate.isBefore(now.minus(MAX_AGE)), "thisUpdate too old");
        if (single.getNextUpdate() != null) {
            Instant nextUpdate = single.getNextUpdate().toInstant();
            check(!nextUpdate.isBefore(now.minus(SKEW)), "nextUpdate too old");
            check(nextUpdate.isAfter(thisUpdate), "nextUpdate before thisUpdate");
        }
        Extension told = basic.getExtension(OCSPObjectIdentifiers.id_pkix_ocsp_nonce);
        check(told != null && Arrays.equals(told.getExtnValue().getOctets(), nonce), "nonce");
        if (single.getCertStatus() == CertificateStatus.GOOD) {
            return "GOOD";
        }
        if (single.getCertStatus() instanceof RevokedStatus) {
            RevokedStatus revoked = (RevokedStatus) single.getCertStatus();
            return "REVOKED " + (revoked.hasRevocationReason() ? revoked.getRevocationReason() : 0);
        }
        return "UNKNOWN";
    }

    private static void check(boolean holds, String rule) throws Refused {
        if (!holds) {
            throw new Refused(rule);
        }
    }

    private WebEidStatus() {}
}
