import { defineConfig } from "vite";
import { fakeApi } from "./dev/fake.ts";

/** `vite --mode fake` serves synthetic sweeps; plain `vite` passes `/v1` on to a running `winnow up`. */
export default defineConfig(({ mode }) => ({
  plugins: mode === "fake" ? [fakeApi()] : [],
  server: {
    host: "127.0.0.1",
    ...(mode === "fake" ? {} : { proxy: { "/v1": process.env.WINNOW_URL ?? "http://127.0.0.1:8642" } }),
  },
  preview: { host: "127.0.0.1" },
  build: {
    // The API sends `Content-Security-Policy: default-src 'self'`: nothing may be inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
}));
