import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/pages.css";
import "./styles/panels.css";
import "./styles/trial.css";
import "./styles/sweep.css";
import "./styles/early.css";
import "./styles/changes.css";

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
