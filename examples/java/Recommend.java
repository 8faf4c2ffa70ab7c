// Recommends from a published version, in Java: what Python reads, any Arrow reader reads.
//
//   java --add-opens=java.base/java.nio=ALL-UNNAMED -cp "$HOME/.cache/recunlearn/arrow/*" \
//       Recommend.java STATE MODEL USER N
//
// Prints a line of JSON for each item, best first. A version is checked before it is used: CURRENT commits to
// the manifest, the manifest to every file. The fence is not asked here: see docs/howto/embed.md.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.memory.RootAllocator;
import org.apache.arrow.vector.FieldVector;
import org.apache.arrow.vector.Float4Vector;
import org.apache.arrow.vector.complex.FixedSizeListVector;
import org.apache.arrow.vector.ipc.ArrowFileReader;
import org.apache.arrow.vector.util.ByteArrayReadableSeekableByteChannel;

public final class Recommend {
    record Scored(String itemId, double score) {}

    public static void main(String[] words) throws IOException {
        if (words.length != 4) {
            System.err.println("usage: Recommend.java STATE MODEL USER N");
            System.exit(2);
        }
        ObjectMapper json = new ObjectMapper();
        for (Scored one : recommend(Path.of(words[0]), words[1], words[2], Integer.parseInt(words[3]))) {
            System.out.println(json.createObjectNode().put("item_id", one.itemId()).put("score", one.score()));
        }
    }

    /** Reads the published version; if it is replaced, and purged, meanwhile, the newer one. */
    static List<Scored> recommend(Path state, String model, String user, int n) throws IOException {
        while (true) {
            String current = Files.readString(state.resolve("CURRENT"));
            try {
                return new Version(state, current).recommend(model, user, n);
            } catch (NoSuchFileException gone) {
                if (current.equals(Files.readString(state.resolve("CURRENT")))) {
                    throw gone;
                }
            }
        }
    }

    /** One version, each file of which is checked against its digest when it is read. */
    static final class Version {
        private final Path directory;
        private final JsonNode manifest;

        Version(Path state, String current) throws IOException {
            String[] named = current.strip().split(" ");
            directory = state.resolve("versions").resolve(named[0]);
            manifest = new ObjectMapper().readTree(checked("manifest.json", named[1]));
        }

        List<Scored> recommend(String model, String user, int n) throws IOException {
            List<String> users = ids("users.arrow"), items = ids("items.arrow");
            int row = users.indexOf(user);
            if (row < 0) {
                throw new IllegalArgumentException("user is not known");
            }
            float[][] mine = matrix(model + "/user_factors.arrow", row, row + 1);
            float[][] theirs = matrix(model + "/item_factors.arrow", 0, items.size());
            Set<Integer> has = itemsOf(row);
            return IntStream.range(0, items.size())
                .filter(item -> !has.contains(item))
                .mapToObj(item -> new Scored(items.get(item), dot(mine[0], theirs[item])))
                .sorted(Comparator.comparingDouble(Scored::score).reversed())
                .limit(n)
                .toList();
        }

        /** The columns that the user has, from the CSR matrix of what is kept. */
        private Set<Integer> itemsOf(int row) throws IOException {
            List<Number> starts = column("user_items.indptr.arrow", vector -> numbers(vector, row, row + 2));
            int start = starts.get(0).intValue(), stop = starts.get(1).intValue();
            Set<Integer> found = new HashSet<>();
            for (Number item : column("user_items.indices.arrow", vector -> numbers(vector, start, stop))) {
                found.add(item.intValue());
            }
            return found;
        }

        private List<String> ids(String file) throws IOException {
            return column(file, vector ->
                IntStream.range(0, vector.getValueCount()).mapToObj(k -> vector.getObject(k).toString()).toList());
        }

        private static List<Number> numbers(FieldVector vector, int start, int stop) {
            List<Number> found = new ArrayList<>();
            for (int k = start; k < stop; k++) {
                found.add((Number) vector.getObject(k));
            }
            return found;
        }

        private float[][] matrix(String file, int start, int stop) throws IOException {
            return column(file, vector -> {
                FixedSizeListVector rows = (FixedSizeListVector) vector;
                Float4Vector flat = (Float4Vector) rows.getDataVector();
                int width = rows.getListSize();
                float[][] found = new float[stop - start][width];
                for (int k = 0; k < found.length * width; k++) {
                    found[k / width][k % width] = flat.get(start * width + k);
                }
                return found;
            });
        }

        /** Reads the first column of an Arrow file, which has one record batch. */
        private <T> T column(String file, Function<FieldVector, T> read) throws IOException {
            byte[] content = checked(file, manifest.get("files").get(file).get("sha256").asText());
            try (BufferAllocator allocator = new RootAllocator();
                    ArrowFileReader reader =
                        new ArrowFileReader(new ByteArrayReadableSeekableByteChannel(content), allocator)) {
                reader.loadNextBatch();
                return read.apply(reader.getVectorSchemaRoot().getVector(0));
            }
        }

        private byte[] checked(String file, String sha256) throws IOException {
            byte[] content = Files.readAllBytes(directory.resolve(file));
            if (!HexFormat.of().formatHex(sha256(content)).equals(sha256)) {
                throw new UncheckedIOException(new IOException(file + " is not what was published"));
            }
            return content;
        }
    }

    private static double dot(float[] one, float[] other) {
        return IntStream.range(0, one.length).mapToDouble(k -> (double) one[k] * other[k]).sum();
    }

    private static byte[] sha256(byte[] content) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(content);
        } catch (NoSuchAlgorithmException impossible) {
            throw new AssertionError(impossible);
        }
    }
}
