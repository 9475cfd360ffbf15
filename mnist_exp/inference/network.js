// The networks, of float32 weights in the order of PyTorch's state; batch normalisation is folded into them.
function decode(text) {
  return new Float32Array(Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer);
}

// Logits of a digit of 28 by 28 bytes.
function logits({ network, mean, std, floats, classes }, digit) {
  const pixels = resize(digit, SIDE, SIDE, 32, 32, value => Math.floor(value + 0.5));
  const input = Float32Array.from(pixels, value => (value / 255 - mean) / std);
  let place = 0;
  const take = count => floats.subarray(place, place += count);
  const linear = (values, size, last = false) => {
    const weights = take(size * values.length), bias = take(size);
    return Float32Array.from(bias, (sum, row) => {
      for (let i = 0; i < values.length; i++) sum += weights[row * values.length + i] * values[i];
      return last ? sum : Math.max(sum, 0);
    });
  };
  // A convolution of 5 by 5, max-pooling of 2 by 2, and ReLU.
  const block = (maps, channels, side, filters) => {
    const kernels = take(filters * channels * 25), bias = take(filters), wide = side - 4, half = wide / 2;
    const result = new Float32Array(filters * half * half), sums = new Float32Array(wide * wide);
    for (let filter = 0; filter < filters; filter++) {
      sums.fill(bias[filter]);
      for (let channel = 0; channel < channels; channel++) {
        for (let v = 0; v < 5; v++) {
          for (let u = 0; u < 5; u++) {
            const weight = kernels[((filter * channels + channel) * 5 + v) * 5 + u];
            for (let y = 0; y < wide; y++) {
              const from = (channel * side + y + v) * side + u;
              for (let x = 0; x < wide; x++) sums[y * wide + x] += weight * maps[from + x];
            }
          }
        }
      }
      for (let y = 0; y < half; y++) {
        for (let x = 0; x < half; x++) {
          const i = 2 * y * wide + 2 * x;
          result[(filter * half + y) * half + x] = Math.max(sums[i], sums[i + 1], sums[i + wide], sums[i + wide + 1], 0);
        }
      }
    }
    return result;
  };
  const features = network === "mlp" ? linear(linear(input, 60), 20)
    : linear(linear(block(block(input, 1, 32, 6), 6, 14, 16), 120), 84);
  return linear(features, classes.length, true);
}

function softmax(values) {
  const most = Math.max(...values), powers = Array.from(values, value => Math.exp(value - most));
  const total = powers.reduce((sum, power) => sum + power);
  return powers.map(power => power / total);
}
