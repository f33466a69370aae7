// Paho for Java, MQTT 5, over each transport: publish and subscribe, large and retained messages, sessions, properties.
import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.eclipse.paho.mqttv5.client.IMqttToken;
import org.eclipse.paho.mqttv5.client.MqttCallback;
import org.eclipse.paho.mqttv5.client.MqttClient;
import org.eclipse.paho.mqttv5.client.MqttConnectionOptions;
import org.eclipse.paho.mqttv5.client.MqttDisconnectResponse;
import org.eclipse.paho.mqttv5.client.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.common.MqttException;
import org.eclipse.paho.mqttv5.common.MqttMessage;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;
import org.eclipse.paho.mqttv5.common.packet.UserProperty;

public class PahoJava5 {
    interface Test { void run(String transport, int version, String name) throws Exception; }

    static final BlockingQueue<MqttMessage> arrived = new LinkedBlockingQueue<>();

    static MqttConnectionOptions options(String transport, int version) throws Exception {
        MqttConnectionOptions o = new MqttConnectionOptions();
        if (transport.equals("tls") || transport.equals("wss")) {
            KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
            trusted.load(null, null);
            try (FileInputStream in = new FileInputStream(System.getenv("SLUICE_CA"))) {
                trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
            }
            TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            trust.init(trusted);
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, trust.getTrustManagers(), null);
            o.setSocketFactory(context.getSocketFactory());
        }
        return o;
    }

    static MqttClient open(String transport, String id, MqttConnectionOptions options) throws Exception {
        String scheme = transport.equals("tls") ? "ssl" : transport;
        String url = scheme + "://" + System.getenv("SLUICE_HOST") + ":" + System.getenv("SLUICE_" + transport.toUpperCase())
            + (transport.startsWith("ws") ? "/mqtt" : "");
        MqttClient c = new MqttClient(url, id, new MemoryPersistence());
        c.setTimeToWait(20000);
        c.setCallback(new MqttCallback() {
            public void disconnected(MqttDisconnectResponse response) { }
            public void mqttErrorOccurred(MqttException e) { }
            public void messageArrived(String topic, MqttMessage m) { arrived.add(m); }
            public void deliveryComplete(IMqttToken token) { }
            public void connectComplete(boolean reconnect, String uri) { }
            public void authPacketArrived(int code, MqttProperties properties) { }
        });
        c.connect(options);
        return c;
    }

    static void close(MqttClient c) throws Exception {
        c.disconnect();
        c.close();
    }

    static void expect(byte[] payload, int qos, boolean retained) throws Exception {
        MqttMessage m = arrived.poll(20, TimeUnit.SECONDS);
        if (m == null) throw new Exception("no message within 20 s");
        if (!Arrays.equals(m.getPayload(), payload) || m.getQos() != qos || m.isRetained() != retained)
            throw new Exception("found " + m.getPayload().length + " bytes at " + m.getQos() + ", retained " + m.isRetained());
    }

    static void flow(String transport, int version, String name) throws Exception {
        MqttClient c = open(transport, name, options(transport, version));
        for (int qos = 0; qos < 3; qos++) {
            c.subscribe(name + "/" + qos, qos);
            for (int i = 0; i < 30; i++) c.publish(name + "/" + qos, ("m" + i).getBytes(), qos, false);
            for (int i = 0; i < 30; i++) expect(("m" + i).getBytes(), qos, false);
        }
        close(c);
    }

    static void large(String transport, int version, String name) throws Exception {
        MqttClient c = open(transport, name, options(transport, version));
        byte[] body = new byte[700000];
        c.subscribe(name, 1);
        for (int i = 0; i < 3; i++) {
            c.publish(name, body, 1, false);
            expect(body, 1, false);
        }
        close(c);
    }

    static void retained(String transport, int version, String name) throws Exception {
        MqttClient c = open(transport, name, options(transport, version));
        c.publish(name, "kept".getBytes(), 1, true);
        c.subscribe(name, 1);
        expect("kept".getBytes(), 1, true);
        c.publish(name, new byte[0], 1, true);
        expect(new byte[0], 1, false);
        close(c);
    }

    static void session(String transport, int version, String name) throws Exception {
        MqttConnectionOptions keep = options(transport, version);
        keep.setCleanStart(false);
        keep.setSessionExpiryInterval(300L);
        MqttClient s = open(transport, name + "s", keep);
        s.subscribe(name, 2);
        close(s);
        MqttClient p = open(transport, name + "p", options(transport, version));
        for (int i = 0; i < 30; i++) p.publish(name, ("m" + i).getBytes(), 1 + i / 15, false);
        close(p);
        s = open(transport, name + "s", keep);
        for (int i = 0; i < 30; i++) expect(("m" + i).getBytes(), 1 + i / 15, false);
        close(s);
    }

    static void properties(String transport, int version, String name) throws Exception {
        MqttClient c = open(transport, name, options(transport, version));
        c.subscribe(name, 1);
        MqttProperties p = new MqttProperties();
        p.setContentType("text/plain");
        p.setResponseTopic("answers");
        p.setCorrelationData(new byte[] {0, 1});
        p.setUserProperties(Arrays.asList(new UserProperty("k", "v"), new UserProperty("k", "w")));
        c.publish(name, new MqttMessage("body".getBytes(), 1, false, p));
        MqttMessage m = arrived.poll(20, TimeUnit.SECONDS);
        if (m == null) throw new Exception("no message within 20 s");
        MqttProperties f = m.getProperties();
        if (!f.getContentType().equals("text/plain") || !f.getResponseTopic().equals("answers")
            || !Arrays.equals(f.getCorrelationData(), new byte[] {0, 1}) || f.getUserProperties().size() != 2)
            throw new Exception("found " + f);
        close(c);
    }

    static void check(String test, String transport, int version, Test run) {
        String name = transport + " " + version + " " + test;
        try {
            arrived.clear();
            run.run(transport, version, "j" + transport + version + test);
            System.out.println("PASS " + name);
        } catch (Exception e) {
            System.out.println("FAIL " + name + ": " + e + (e.getCause() == null ? "" : ", " + e.getCause()));
        }
    }

    public static void main(String[] arguments) {
        for (String transport : new String[] {"tcp", "tls", "ws", "wss"}) {
            for (int version : new int[] {5}) {
                check("flow", transport, version, PahoJava5::flow);
                check("large", transport, version, PahoJava5::large);
                check("retained", transport, version, PahoJava5::retained);
                check("session", transport, version, PahoJava5::session);
                check("properties", transport, version, PahoJava5::properties);
            }
        }
        System.exit(0);
    }
}
