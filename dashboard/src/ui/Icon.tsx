/** Line icons, 16 × 16, in the text's colour. Decorative: the control beside them carries the name. */

const PATHS = {
  sun: "M8 1.5v1.3M8 13.2v1.3M14.5 8h-1.3M2.8 8H1.5M12.6 3.4l-.9.9M4.3 11.7l-.9.9M12.6 12.6l-.9-.9M4.3 4.3l-.9-.9M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6Z",
  moon: "M13.5 9.8A5.8 5.8 0 0 1 6.2 2.5a5.8 5.8 0 1 0 7.3 7.3Z",
  close: "m4 4 8 8M12 4l-8 8",
  chevron: "m6 4 4 4-4 4",
  stop: "M4.5 4.5h7v7h-7z",
  pause: "M5.5 4v8M10.5 4v8",
  play: "m5.5 4 6 4-6 4z",
  check: "m3.5 8.5 3 3 6-7",
  warning: "M8 2.2 14.3 13H1.7L8 2.2ZM8 6.5v3M8 11.4v.1",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  pin: "M5.5 2.5h5l-.7 4.2 2.2 2.3H4l2.2-2.3-.7-4.2ZM8 9v4.5",
  revive: "M3.2 9A5 5 0 1 0 4.4 4.6L2.8 6M2.8 2.8V6H6",
  plus: "M8 3.5v9M3.5 8h9",
  sliders: "M2.5 5h5M11.5 5h2M2.5 11h2M8.5 11h5M9.5 3.3v3.4M6.5 9.3v3.4",
  zoomout: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9ZM10.4 10.4l3.1 3.1M5 7h4",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg className="icon" width={size} height={size} viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
