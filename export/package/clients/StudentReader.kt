// Frame to model input, and embedding to answers, as the contract of the export wants it. Not a medical device.

import org.json.JSONObject
import java.math.BigDecimal
import java.math.RoundingMode
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.pow
import kotlin.math.truncate

private const val TOP = 15 // the age is the median of the TOP most similar ages
private val UNIT = 2.0.pow(22) // of Pillow's fixed-point weights

/**
 * Reads heads.safetensors; of manifest.json `side` is the model's input side, `bicubic` the contract's interpolation,
 * `ageDrop` the `age_drop` of `answers`.
 */
class StudentReader(
    heads: ByteArray, private val side: Int, private val bicubic: Boolean, private val ageDrop: Double?,
) {
    /** Gestational age in days, and the ends of its interval: null without an `ageDrop`. */
    data class Age(val days: Int, val youngest: Int?, val oldest: Int?)

    private val file = ByteBuffer.wrap(heads).order(ByteOrder.LITTLE_ENDIAN)
    private val start = 8 + file.getLong(0).toInt()
    private val header = JSONObject(String(heads, 8, start - 8, Charsets.UTF_8))

    /** A frame's packed ARGB pixels (Bitmap.getPixels), padded and resized as in training: [1, 3, S, S], 0 to 255. */
    fun planar(argb: IntArray, width: Int, height: Int): FloatArray {
        val longer = max(width, height)
        val (left, top) = (longer - width) / 2 to (longer - height) / 2
        val out = FloatArray(3 * side * side)
        for (channel in 0..2) {
            val square = FloatArray(longer * longer)
            for (y in 0 until height) for (x in 0 until width) {
                square[(top + y) * longer + left + x] = (argb[y * width + x] shr (16 - 8 * channel) and 0xff).toFloat()
            }
            resized(square, longer).copyInto(out, channel * side * side)
        }
        return out
    }

    /** Pillow's antialiased resize of one channel: along rows, then along columns. */
    private fun resized(square: FloatArray, size: Int): FloatArray {
        val scale = size.toDouble() / side
        val stretch = max(scale, 1.0)
        val reach = (if (bicubic) 2 else 1) * stretch
        val table = List(side) { row ->
            val centre = (row + 0.5) * scale
            val first = max((centre - reach + 0.5).toInt(), 0)
            val last = min((centre + reach + 0.5).toInt(), size)
            val own = DoubleArray(last - first) { kernel((first + it - centre + 0.5) / stretch) }
            val sum = own.sum()
            first to DoubleArray(own.size) { truncate(own[it] / sum * UNIT + if (own[it] < 0) -0.5 else 0.5) }
        }
        fun pass(source: FloatArray, lines: Int, line: Int, step: Int, target: FloatArray, toLine: Int, toStep: Int) {
            for (number in 0 until lines) for ((row, entry) in table.withIndex()) {
                val (first, own) = entry
                var sum = UNIT / 2
                for (i in own.indices) sum += own[i] * source[number * line + (first + i) * step]
                target[number * toLine + row * toStep] = floor(sum / UNIT).coerceIn(0.0, 255.0).toFloat()
            }
        }
        val narrow = FloatArray(size * side)
        pass(square, size, size, 1, narrow, side, 1)
        return FloatArray(side * side).also { pass(narrow, side, 1, side, it, 1, side) }
    }

    /** Pillow's bicubic (a = -0.5) or bilinear kernel. */
    private fun kernel(distance: Double): Double {
        val x = abs(distance)
        return when {
            !bicubic -> max(0.0, 1 - x)
            x < 1 -> (1.5 * x - 2.5) * x * x + 1
            x < 2 -> ((-0.5 * x + 2.5) * x - 4) * x + 2
            else -> 0.0
        }
    }

    /** Probabilities of a class head, label -> share. */
    fun classify(embedding: FloatArray, head: String): Map<String, Double> {
        val about = about(head)
        val labels = about.getJSONArray("labels")
        val logits = product(head, 0, labels.length(), embedding).map { about.getDouble("cosine_scale") * it }
        val odds = logits.map { exp(it - logits.max()) }
        return List(odds.size) { labels.getString(it) to odds[it] / odds.sum() }.toMap()
    }

    /** Gestational age of a head in a frame of width x height pixels; throws where the table lacks the spacing. */
    fun age(embedding: FloatArray, width: Int, height: Int, pixelSizeMm: Double): Age {
        require(header.has("ages")) { "the export has no age table" }
        val about = about("ages")
        val exact = BigDecimal(max(width, height).toDouble() / side * pixelSizeMm)
        val spacing = exact.setScale(2, RoundingMode.HALF_EVEN).toPlainString()
        val known = about.getJSONArray("spacings_mm_per_px")
        val row = (0 until known.length()).firstOrNull { known.getString(it) == spacing }
        require(row != null) { "pixel spacing $spacing mm is not in the export's age table" }
        val count = header.getJSONObject("ages").getJSONArray("shape").getInt(1)
        val rank = header.getJSONObject("ages_basis").getJSONArray("shape").getInt(0)
        val coordinates = product("ages_basis", 0, rank, embedding).map { it.toFloat() }.toFloatArray()
        val similarity = product("ages", row * count, count, coordinates).map { about.getDouble("cosine_scale") * it }
        val first = about.getJSONArray("ages_days").getInt(0)
        val best = similarity.indices.sortedByDescending { similarity[it] }.take(TOP).sorted()[TOP / 2]
        if (ageDrop == null) return Age(first + best, null, null)
        val near = similarity.indices.filter { similarity[it] >= similarity.max() - ageDrop } + best
        return Age(first + best, first + near.min(), first + near.max())
    }

    private fun about(head: String) = JSONObject(header.getJSONObject("__metadata__").getString(head))

    /** Product of a stored matrix, from its row `first` on, with a vector. */
    private fun product(tensor: String, first: Int, rows: Int, vector: FloatArray): DoubleArray {
        val entry = header.getJSONObject(tensor)
        val half = entry.getString("dtype") == "F16"
        val begin = start + entry.getJSONArray("data_offsets").getInt(0)
        return DoubleArray(rows) { row ->
            val place = (first + row) * vector.size
            vector.indices.sumOf { i ->
                val number = if (half) fromHalf(file.getShort(begin + 2 * (place + i)).toInt()) else
                    file.getFloat(begin + 4 * (place + i)).toDouble()
                number * vector[i]
            }
        }
    }

    private fun fromHalf(bits: Int): Double {
        val (exponent, fraction) = (bits shr 10 and 31) to (bits and 1023)
        val size = if (exponent == 0) 2.0.pow(-24) * fraction else 2.0.pow(exponent - 15) * (1 + fraction / 1024.0)
        return if (bits and 0x8000 != 0) -size else size
    }
}
