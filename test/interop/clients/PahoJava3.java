// Paho for Java, MQTT 3.1 and 3.1.1, over each transport: publish and subscribe, large and retained messages, sessions.
import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.eclipse.paho.client.mqttv3.MqttClient;
import org.eclipse.paho.client.mqttv3.MqttConnectOptions;
import org.eclipse.paho.client.mqttv3.MqttMessage;
import org.eclipse.paho.client.mqttv3.persist.MemoryPersistence;

public class PahoJava3 {
    interface Test { void run(String transport, int version, String name) throws Exception; }

    static final BlockingQueue<MqttMessage> arrived = new LinkedBlockingQueue<>();

    static MqttConnectOptions options(String transport, int version) throws Exception {
        MqttConnectOptions o = new MqttConnectOptions();
        o.setMqttVersion(version);
        o.setMaxInflight(1000); // the client frees a place after publish has returned: on a busy machine 10 may not be enough
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

    static MqttClient open(String transport, String id, MqttConnectOptions options) throws Exception {
        String scheme = transport.equals("tls") ? "ssl" : transport;
        String url = scheme + "://" + System.getenv("SLUICE_HOST") + ":" + System.getenv("SLUICE_" + transport.toUpperCase())
            + (transport.startsWith("ws") ? "/mqtt" : "");
        MqttClient c = new MqttClient(url, id, new MemoryPersistence());
        c.setTimeToWait(20000);
        c.setCallback(new org.eclipse.paho.client.mqttv3.MqttCallback() {
            public void connectionLost(Throwable cause) { }
            public void messageArrived(String topic, MqttMessage m) { arrived.add(m); }
            public void deliveryComplete(org.eclipse.paho.client.mqttv3.IMqttDeliveryToken token) { }
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
        MqttConnectOptions keep = options(transport, version);
        keep.setCleanSession(false);
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

    static void check(String test, String transport, int version, Test run) {
        String name = transport + " " + (version == 3 ? "3.1" : "3.1.1") + " " + test;
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
            for (int version : new int[] {3, 4}) {
                check("flow", transport, version, PahoJava3::flow);
                check("large", transport, version, PahoJava3::large);
                check("retained", transport, version, PahoJava3::retained);
                check("session", transport, version, PahoJava3::session);
            }
        }
        System.exit(0);
    }
}
